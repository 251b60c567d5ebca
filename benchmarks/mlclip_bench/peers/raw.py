"""The raw store: `peers.jsonl`, one JSON line for each thing that was seen, in the order of seeing.

Lines of kind `setting` (once, first), `ready` and `failed` (of a peer), `agreement` (a peer's vectors against the
base's) and `time` (one peer's seconds in one round).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlclip.errors import ResultsError

Line = dict[str, Any]


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
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ResultsError(f"{self.folder}: cannot be written: {error.strerror or error}") from error
        return line

    def lines(self) -> list[Line]:
        """Give all lines; one that a killed writer left half at the end does not count.

        Raises:
            ResultsError: there is no such file, or a line is broken.
        """
        try:
            rows = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        except (OSError, UnicodeDecodeError) as error:
            raise ResultsError(f"{self.path}: cannot be read ({error}): measure first, without --derive") from error
        lines: list[Line] = []
        for number, row in enumerate(rows, start=1):
            if row.endswith("\n"):
                try:
                    line = json.loads(row)
                    line["kind"]
                except (ValueError, KeyError, TypeError) as error:
                    raise ResultsError(f"{self.path}:{number}: not a result ({error!r}): take the line out") from error
                lines.append(line)
        return lines
