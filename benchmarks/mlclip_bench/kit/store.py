"""The raw results of a study: JSON lines in one file, each appended as soon as it is measured."""

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from mlclip.errors import ResultsError
from mlclip.json_lines import Line, append_line, different, read_lines


class Store:
    """The raw lines of one folder, which is made with the first line.

    A study that stores different kinds of lines tells them apart by `kind`; one that stores a line per measurement
    overrides `key`.
    """

    file: ClassVar[str] = "results.jsonl"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / self.file

    @staticmethod
    def key(line: Line) -> object:
        """What a line is about; raises KeyError for a line of something else."""
        return line["kind"]

    def lines(self) -> list[Line]:
        """All lines in the order of writing, but a last one cut by a kill; raises ResultsError for a broken one."""
        return read_lines(self.path, "result", self.key)

    def latest(self) -> list[Line]:
        """The last line of every key, in the order in which keys first appeared."""
        return list({self.key(line): line for line in self.lines()}.values())

    def of(self, kind: str) -> list[Line]:
        """All lines of a kind."""
        return [line for line in self.lines() if line["kind"] == kind]

    def setting(self) -> Line:
        """The line of kind `setting`, which runs of several kinds of lines write first; raises ResultsError."""
        for line in self.of("setting"):
            return line
        raise ResultsError(f"{self.path} holds no run: measure first, without --derive")

    def append(self, line: Line) -> Line:
        """Write a line to the disk and return it."""
        append_line(self.path, line)
        return line

    def check_new(self, alternative: str) -> None:
        """Raise ResultsError if the folder holds lines; the message offers `alternative` beside another folder."""
        if self.lines():
            raise ResultsError(f"{self.path} holds a measurement: {alternative}, --out names another folder")

    def check_same(self, asked: Line, measured: Iterable[Line]) -> None:
        """Raise ResultsError if settings asked for now differ from those of a measured line; the message names them."""
        for settings in measured:
            if other := sorted(different({name: settings.get(name) for name in asked}, asked)):
                raise ResultsError(
                    f"{self.path} was measured with another {', '.join(other)}: name another folder with --out"
                )
