"""What this machine's CPU offers to models: the cores that this process really has, and OpenVINO's runtime."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt


def cores(root: Path = Path("/")) -> int:
    """Count the cores that this process may use: its CPU affinity, or the quota of its cgroups where that is less.

    `root` holds `proc` and `sys`. A part of a core counts as none, except that there is always one.
    """
    found: list[float] = [len(os.sched_getaffinity(0))]
    with contextlib.suppress(OSError):  # no cgroups
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
            for folder in (mount / group.lstrip("/"), *(mount / group.lstrip("/")).parents):
                with contextlib.suppress(OSError, ValueError):  # no quota: no file, the word "max", or -1
                    quota, period = _quota(folder)
                    found += [quota / period] if quota > 0 else []
    return max(1, int(min(found)))


def _quota(folder: Path) -> tuple[int, int]:
    """Read a cgroup's microseconds of CPU per period, as version 2 or version 1 of cgroups has them."""
    if (folder / "cpu.max").is_file():
        quota, period = (folder / "cpu.max").read_text().split()
    else:
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    return int(quota), int(period)


class OpenVino:
    """An ONNX file in OpenVINO's runtime, run as onnxruntime runs one; may be used from several threads.

    Args:
        path: the ONNX file.
        threads: 0: one per core.
        precision: `bf16` computes in bfloat16 where the CPU can. Otherwise float32 stays float32: OpenVINO's own
            default is bfloat16 on CPUs that have it.

    Raises:
        ImportError: OpenVINO is not installed.
        RuntimeError: it cannot read or compile the file.
    """

    def __init__(self, path: Path, threads: int = 0, precision: str = "fp32") -> None:
        core = importlib.import_module("openvino").Core()
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": threads or cores(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # others use the cores, too
        }
        self._request = core.compile_model(str(path), "CPU", settings).create_infer_request()
        self._lock = threading.Lock()

    def run(self, names: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Run on inputs by name, [b, ...]; give the outputs of some names, [b, ...]. Raises RuntimeError."""
        with self._lock:
            self._request.infer(dict(feeds), share_inputs=True, share_outputs=True)  # only what is wanted is copied
            return [self._request.get_tensor(name).data.copy() for name in names]
