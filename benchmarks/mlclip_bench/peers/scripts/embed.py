"""Times a peer: the script of `worker_protocol` for all peers. Runs in the peer's environment; needs only numpy there.

The first argument after this script is the peer's own script. It defines `load(settings)`, which returns a function
and a dict with what it found (versions, threads). The function turns paths into vectors float32 [n, D]; where another
program holds the clock, it returns seconds instead.
"""

import json
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

load_peer = runpy.run_path(sys.argv[2])["load"]


def load(settings: dict[str, Any]) -> tuple[Callable[..., dict[str, Any]], dict[str, Any]]:
    """Load the peer; what it imports is loaded already and not timed."""
    started = time.perf_counter()
    embed, about = load_peer(settings)

    def run(images: str, vectors: str | None = None) -> dict[str, Any]:
        """Embed images; `images` is a JSON file of paths, `vectors` a file for the result."""
        paths = json.loads(Path(images).read_text())
        started = time.perf_counter()
        given = embed(paths)
        seconds = time.perf_counter() - started
        if isinstance(given, float):
            return {"seconds": given, "images": len(paths)}
        rows = np.asarray(given, dtype=np.float32)
        if rows.ndim != 2 or len(rows) != len(paths):
            raise RuntimeError(f"{len(paths)} images became an array of shape {rows.shape}")
        if vectors is not None:
            np.save(vectors, rows)
        return {"seconds": seconds, "images": len(paths)}

    return run, {"seconds": time.perf_counter() - started, "about": about}
