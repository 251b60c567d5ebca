"""Where a figure comes from: commit, machine and versions, stored with every raw result."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("mlclip", "torch", "onnxruntime", "numpy", "scikit-learn", "open_clip_torch")


def provenance() -> dict[str, Any]:
    """Commit (`+` when files other than results differ from it), time, machine and versions, as plain JSON values."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {memory / 2**30:.0f} GiB",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


@cache
def _commit() -> str:
    """The commit of the repository that tracks this file; `unknown` for an installed copy."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(
                ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            return ""
        return done.stdout.strip()

    if not git("ls-files", Path(__file__).name):
        return "unknown"
    changed = git("status", "--porcelain", "--", ":/", ":!/benchmarks/results")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
