"""NVIDIA's perf_analyzer on the model that the client asks: a closed loop, one image per request, over gRPC.

The clock is its own: the count of images over the throughput it reports, which leaves out reading the files.
"""

import base64
import csv
import json
import os
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_THROUGHPUT = "Inferences/Second"


def load(settings: dict[str, Any]) -> tuple[Callable[[list[str]], Any], dict[str, Any]]:
    """Find the program and see whether it starts on this machine."""
    program = _program()
    about = _run([program, "--version"]).split("Version", 1)[-1].split()
    target = ["-m", f"{settings['head']}_bytes", "-u", settings["url"], "-i", "grpc", "-b", "1", "--async"]

    def embed(paths: list[str]) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            data, report = Path(folder) / "images.json", Path(folder) / "report.csv"
            data.write_text(json.dumps({"data": [{"image": {"b64": _element(path)}} for path in paths]}))
            count, concurrency = len(paths), min(len(paths), settings["concurrency"])
            load = ["--request-count", str(count), "--concurrency-range", str(concurrency)]
            _run([program, *target, *load, "--input-data", str(data), "-f", str(report)])
            with report.open(newline="") as file:
                throughput = float(next(csv.DictReader(file))[_THROUGHPUT])
        return len(paths) / throughput

    return embed, {"perf_analyzer": about[0] if about else "unknown"}


def _element(path: str) -> str:
    """A file as perf_analyzer takes a BYTES element: its length in four bytes, then itself."""
    content = Path(path).read_bytes()
    return base64.b64encode(struct.pack("<I", len(content)) + content).decode()


def _program() -> str:
    places = (
        Path(sysconfig.get_path("purelib")) / "perf_analyzer" / "bin" / "perf_analyzer",
        Path(sys.prefix) / "bin" / "perf_analyzer",
    )
    for place in places:
        if place.is_file():
            return str(place)
    raise FileNotFoundError("the package brings no perf_analyzer")


def _run(command: list[str]) -> str:
    """Run it, with CUDA's runtime where pip has put it: the program is linked to it even for servers without one."""
    libraries = Path(sysconfig.get_path("purelib")) / "nvidia" / "cuda_runtime" / "lib"
    search = os.pathsep.join(filter(None, (str(libraries), os.environ.get("LD_LIBRARY_PATH"))))
    done = subprocess.run(
        command, env=os.environ | {"LD_LIBRARY_PATH": search}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        raise RuntimeError(lines[0])
    return done.stdout + done.stderr  # the version goes to the latter
