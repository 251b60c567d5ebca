"""The cores that a server really has."""

import contextlib
import os
from pathlib import Path

CORES = "MLCLIP_CORES"
"""The environment variable that tells the models of a server how many threads they have, unless their configs do."""


def available_cores(root: Path = Path("/")) -> int:
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
