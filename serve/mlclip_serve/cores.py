"""The cores that a server really has."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

CORES = "MLCLIP_CORES"
"""The environment variable that tells the models of a server how many threads they have, unless their configs do."""


def available_cores(root: Path = Path("/")) -> int:
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
