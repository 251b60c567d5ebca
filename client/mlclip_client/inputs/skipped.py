"""What is asked of the enumeration of inputs, and what it passed by."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mlclip_client.inputs.folders import Walk
from mlclip_client.wording import counted

ARCHIVES = (
    ".tar",
    ".tar.gz",
    ".tgz",
    ".tar.bz2",
    ".tbz2",
    ".tar.xz",
    ".txz",
    ".tar.zst",
    ".tzst",
)
MANIFESTS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
LISTS = (".txt",)
_ONE_OF = {"empty lines": "empty line", "folders in archives": "folder in an archive"}
"""What may be skipped, and what one of it is called."""


@dataclass(frozen=True)
class InputOptions:
    """How names become inputs.

    Attributes:
        column: of manifests, which column holds the path, the address or the bytes, where its name does not say.
        nul: lists (`-` and .txt) are separated by NUL instead of newlines, as `find -print0` writes them.
    """

    column: str | None = None
    nul: bool = False


@dataclass
class Skipped(Walk):
    """What was passed by; complete when the enumeration has ended.

    Attributes:
        containers: how many of `left_alone` are archives or manifests, which are read when they are named.
        skipped: what else became no input, one of "empty lines" and "folders in archives" -> how often.
    """

    containers: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def leave(self, name: str) -> None:
        """Count a file or an archive's member that is left alone."""
        super().leave(name)
        self.containers += name.lower().endswith(ARCHIVES + MANIFESTS)

    def __str__(self) -> str:
        parts = [f"{counted(self.left_alone, 'other file')} left alone"] * bool(self.left_alone)
        if self.containers:
            parts.append(f"{self.containers:,} of them archives or manifests: name them to have them read")
        skipped = sorted(self.skipped.items())
        parts += [f"{counted(count, _ONE_OF.get(what, what), what)} skipped" for what, count in skipped]
        parts += [f"folder not readable: {folder}" for folder in self.unreadable]
        return "; ".join(parts)
