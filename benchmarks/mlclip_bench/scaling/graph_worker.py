"""Runs one graph and times it: a script of `worker_protocol`. It needs onnxruntime and numpy, not torch.

Bytes are resident memory above that of the process before it loaded the graph. onnxruntime keeps what it once took,
so the peak of a batch is right where no larger one ran before.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

LONG = 1.0  # calls that take this many seconds need no warm-up after their first: they fill the caches by themselves


def load(settings: dict[str, Any]) -> tuple[Callable[..., dict[str, Any]], dict[str, Any]]:
    """Load `file` with `threads`; says how long it took and how much memory."""
    base = _memory("VmRSS")
    started = time.perf_counter()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings["threads"]
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(settings["file"], options, providers=["CPUExecutionProvider"])
    about = {"load_seconds": time.perf_counter() - started, "loaded_bytes": _memory("VmRSS") - base}
    output = [session.get_outputs()[0].name]
    feeds: dict[int, dict[str, Any]] = {}
    last: dict[int, float] = {}

    def run(batch: int, at_least: float) -> dict[str, Any]:
        """Call with one batch size until `at_least` seconds have passed; one call at least."""
        if batch not in feeds:
            feeds[batch] = _feeds(session, batch)
        given = feeds[batch]
        if last.get(batch, 0.0) < LONG:
            session.run(output, given)
        seconds: list[float] = []
        end = time.perf_counter() + at_least
        while not seconds or time.perf_counter() < end:
            started = time.perf_counter()
            session.run(output, given)
            seconds.append(time.perf_counter() - started)
        last[batch] = seconds[-1]
        return {"seconds": seconds, "peak_bytes": _memory("VmHWM") - base}

    return run, about


def _feeds(session: Any, batch: int) -> dict[str, Any]:
    """Random inputs: pixels, unit vectors, or tokens."""
    generator, feeds = np.random.default_rng(batch), {}
    for value in session.get_inputs():
        shape = (batch, *value.shape[1:])
        if value.type == "tensor(uint8)":
            feeds[value.name] = generator.integers(0, 256, shape, dtype=np.uint8)
            continue
        drawn = generator.standard_normal(shape, dtype=np.float32)
        unit = np.linalg.norm(drawn, axis=-1, keepdims=True) if len(shape) == 2 else 1
        feeds[value.name] = (drawn / unit).astype(np.float32)
    return feeds


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0
