"""The process that holds one graph and runs it when told; knows onnxruntime and numpy, not torch.

It reads JSON lines and answers each with one. First `{"file": …, "threads": …}`: loads the graph and answers
`{"load_seconds": …, "loaded_bytes": …}`. Then `{"batch": B, "seconds": s}`: one call that is not timed, but where calls
take so long that they fill the caches by themselves, and calls until s seconds have passed, at least one; the answer
is `{"seconds": [one a call], "peak_bytes": …}`. Bytes are resident memory above that of the process before it loaded
the graph; onnxruntime keeps what it once took, so the peak of a batch is right where no larger one ran before. A
failure is answered as `{"error": …}`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

LONG = 1.0
"""Calls that take so many seconds need no warm-up after their first."""
_STATUS = Path("/proc/self/status")


class Graph:
    """A loaded graph with random inputs."""

    def __init__(self, file: str, threads: int) -> None:
        self.base = _memory("VmRSS")
        started = time.perf_counter()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.load_seconds = time.perf_counter() - started
        self.output = [self.session.get_outputs()[0].name]
        self.feeds: dict[int, dict[str, Any]] = {}
        self.last: dict[int, float] = {}

    def run(self, batch: int, seconds: float) -> dict[str, Any]:
        """Time calls of one batch size."""
        feeds = self.feeds.setdefault(batch, self._feeds(batch))
        if self.last.get(batch, 0.0) < LONG:
            self.session.run(self.output, feeds)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            started = time.perf_counter()
            self.session.run(self.output, feeds)
            times.append(time.perf_counter() - started)
        self.last[batch] = times[-1]
        return {"seconds": times, "peak_bytes": _memory("VmHWM") - self.base}

    def _feeds(self, batch: int) -> dict[str, Any]:
        generator, feeds = np.random.default_rng(batch), {}
        for value in self.session.get_inputs():
            shape = (batch, *value.shape[1:])
            if value.type == "tensor(uint8)":
                feeds[value.name] = generator.integers(0, 256, shape, dtype=np.uint8)
                continue
            drawn = generator.standard_normal(shape, dtype=np.float32)
            unit = np.linalg.norm(drawn, axis=-1, keepdims=True) if len(shape) == 2 else 1
            feeds[value.name] = (drawn / unit).astype(np.float32)
        return feeds


def main() -> None:
    """Obey lines on standard input until it ends."""
    graph: Graph | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if graph is None:
                graph = Graph(asked["file"], asked["threads"])
                answer: dict[str, Any] = {
                    "load_seconds": graph.load_seconds,
                    "loaded_bytes": _memory("VmRSS") - graph.base,
                }
            else:
                answer = graph.run(asked["batch"], asked["seconds"])
        except Exception as error:  # onnxruntime's errors share no base class; whoever asked decides
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _memory(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
