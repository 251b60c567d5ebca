"""The raw store: `load.jsonl`, one line a level of load. Of several lines for one level the last counts."""

from __future__ import annotations

from pathlib import Path

from mlclip.errors import ResultsError
from mlclip.json_lines import Line, append_line, read_lines

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
        return list({key_of(line): line for line in read_lines(self.path, "level", key_of)}.values())

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
        append_line(self.path, line)
