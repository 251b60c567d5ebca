"""The raw store: `load.jsonl`, one line a level of load. Of several lines for one level the last counts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mlclip.errors import ResultsError

Line = dict[str, Any]
Key = tuple[str, float]


def key_of(line: Line) -> Key:
    """What tells levels apart: `closed` or `open`, and the concurrency or the rate."""
    return line["mode"], line["level"]


class Store:
    """A folder with measured levels.

    Args:
        folder: made when the first line is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "load.jsonl"

    def lines(self) -> list[Line]:
        """The last line of every level, in the order in which levels first appeared.

        Raises:
            ResultsError: the file cannot be read, or a line other than an unfinished last one is no JSON.
        """
        try:
            text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise ResultsError(f"{self.path}: cannot be read: {error}") from error
        found: dict[Key, Line] = {}
        for number, row in enumerate(text.splitlines(keepends=True), start=1):
            if not row.endswith("\n"):  # a writer that was killed leaves half a line
                continue
            try:
                line = json.loads(row)
                found[key_of(line)] = line
            except (ValueError, KeyError, TypeError) as error:
                raise ResultsError(f"{self.path}:{number}: not a level ({error!r}): take the line out") from error
        return list(found.values())

    def check(self, setting: Line, resume: bool) -> None:
        """Refuse to mix or to overwrite.

        Raises:
            ResultsError: there are levels and they are not to be gone on with, or they were measured otherwise.
        """
        lines = self.lines()
        if lines and not resume:
            raise ResultsError(
                f"{self.path} holds {len(lines)} levels: --resume goes on with them, --out names another"
            )
        for line in lines:
            other = sorted(key for key in setting if line["setting"].get(key) != setting[key])
            if other:
                raise ResultsError(f"{self.path} was measured with another {', '.join(other)}: name a new --out")

    def append(self, line: Line) -> None:
        """Write a level.

        Raises:
            ResultsError: the folder is not writable.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                written = self.path.read_bytes()
                file.truncate(written.rfind(b"\n") + 1)
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ResultsError(f"{self.folder}: cannot be written: {error.strerror or error}") from error
