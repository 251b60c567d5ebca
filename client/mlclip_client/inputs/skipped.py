"""What the search for inputs passed over."""

from collections import Counter
from dataclasses import dataclass, field

from mlclip_client.inputs.formats import format_of
from mlclip_client.wording import counted

_ONE_OF = {"empty lines": "empty line", "folders in archives": "folder in an archive"}


@dataclass
class Skipped:
    """Counts of what became no input; complete when the search has ended."""

    left_alone: int = 0  # files in folders and archives that do not have the suffix of an image
    containers: int = 0  # how many of these are archives or manifests, which are read only if they are named
    unreadable: list[str] = field(default_factory=list)  # folders that could not be listed, with the reason
    skipped: Counter[str] = field(default_factory=Counter)  # "empty lines" and "folders in archives" -> how many

    def leave(self, name: str) -> None:
        """Count a file of a folder, or a member of an archive, that is no image."""
        self.left_alone += 1
        self.containers += format_of(name) in ("archive", "manifest")

    def __str__(self) -> str:
        parts = [f"{counted(self.left_alone, 'other file')} left alone"] * bool(self.left_alone)
        if self.containers:
            parts.append(f"{self.containers:,} of them archives or manifests: name them to have them read")
        parts += [f"{counted(count, _ONE_OF[what], what)} skipped" for what, count in sorted(self.skipped.items())]
        parts += [f"folder not readable: {folder}" for folder in self.unreadable]
        return "; ".join(parts)
