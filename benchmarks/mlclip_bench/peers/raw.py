"""The raw store: `peers.jsonl`, one JSON line for each thing that was seen, in the order of seeing.

Lines of kind `setting` (once, first), `ready` and `failed` (of a peer), `agreement` (a peer's vectors against the
base's) and `time` (one peer's seconds in one round).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlclip.errors import ResultsError
from mlclip.json_lines import Line, append_line, read_lines


class Raw:
    """The raw lines of one folder.

    Args:
        folder: made with the first line.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "peers.jsonl"

    def append(self, kind: str, **values: Any) -> Line:
        """Write a line at once, and give it.

        Raises:
            ResultsError: the folder is not writable.
        """
        line = {"kind": kind, **values}
        append_line(self.path, line)
        return line

    def lines(self) -> list[Line]:
        """Give all lines; one that a killed writer left half at the end does not count.

        Raises:
            ResultsError: there is no such file, or a line is broken.
        """
        if not self.path.exists():
            raise ResultsError(f"{self.path}: there is no such file: measure first, without --derive")
        return read_lines(self.path, "result", lambda line: line["kind"])
