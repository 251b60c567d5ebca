"""What this machine's CPU offers to models: the cores that this process really has, and OpenVINO's runtime."""

import contextlib
import importlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt


def cores(root: Path = Path("/")) -> int:
    """Count the cores that this process may use: its CPU affinity, or the quota of its cgroups (version 2) if less.

    `root` holds `proc` and `sys`. A part of a core counts as none, except that there is always one.
    """
    found = [len(os.sched_getaffinity(0))]
    with contextlib.suppress(OSError):  # no cgroups
        group = Path((root / "proc/self/cgroup").read_text().rpartition("0::/")[2].strip())
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # no file, or the word "max": no quota
                quota, period = (root / "sys/fs/cgroup" / folder / "cpu.max").read_text().split()
                found.append(int(quota) // int(period))
    return max(1, min(found))


class OpenVino:
    """An ONNX file in OpenVINO's runtime, run as onnxruntime runs one; may be used from several threads.

    It has some threads, 0: one per core. The precision `bf16` computes in bfloat16 where the CPU can. Otherwise float32
    stays float32: OpenVINO's own default is bfloat16 on CPUs that have it. Raises ImportError if OpenVINO is not
    installed, RuntimeError if it cannot read or compile the file.
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
