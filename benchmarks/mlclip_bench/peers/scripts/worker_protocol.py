"""The peer's side of the talk with the bench: one JSON object a line, requests on stdin, answers on stdout.

Runs in the peer's own environment (`python speak.py SCRIPT`), so it needs only numpy and imports nothing of mlclip.

    {"do": "load", ...settings}                     {"seconds": 3.1, "about": {"torch": "2.14.1", ...}}
    {"do": "run", "list": FILE}                     {"seconds": 1.9, "images": 32}
    {"do": "vectors", "list": FILE, "file": FILE}   {"shape": [32, 512]}

FILE of `list` holds a JSON array of image paths, read before the clock starts. An exception becomes
{"error": "one line"}; end of input ends the peer. What libraries print goes to stderr.

A script defines `load(settings)`, which gives a function and a dict with what it found (versions, threads). The
function turns paths into vectors float32 [n, D]; where another program holds the clock it gives seconds instead.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    script, embed = _module(sys.argv[1]), None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if request["do"] == "load":
                started = time.perf_counter()
                embed, about = script.load(request)
                answer = {"seconds": time.perf_counter() - started, "about": about}
            else:
                answer = _work(embed, request)
        except Exception as error:  # whatever it is, the bench reports it and goes on with the others
            answer = {"error": _one_line(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _work(embed: Callable[[list[str]], Any] | None, request: dict[str, Any]) -> dict[str, Any]:
    if embed is None:
        raise RuntimeError("nothing is loaded")
    paths = json.loads(Path(request["list"]).read_text())
    started = time.perf_counter()
    given = embed(paths)
    seconds = time.perf_counter() - started
    if isinstance(given, float):
        return {"seconds": given, "images": len(paths)}
    vectors = np.asarray(given, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(paths):
        raise RuntimeError(f"{len(paths)} images became an array of shape {vectors.shape}")
    if request["do"] == "vectors":
        np.save(request["file"], vectors)
        return {"shape": list(vectors.shape)}
    return {"seconds": seconds, "images": len(paths)}


def _module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("peer_script", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _one_line(error: Exception) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}"[:300] if words else type(error).__name__


if __name__ == "__main__":
    main()
