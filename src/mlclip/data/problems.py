"""What is wrong with a dataset; every finding gives its place in the source."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mlclip.data.dataset import Dataset


@dataclass(frozen=True)
class Problem:
    """One finding and its place in the source, such as `labels.csv:12`.

    An `error` keeps the item out of the prepared data, a `warning` does not. `path` is the image of a refused line,
    where that is known.
    """

    where: str
    message: str
    severity: Literal["error", "warning"] = "error"
    path: Path | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.severity}: {self.message}"


@dataclass(frozen=True)
class Report:
    """All findings about a dataset, in the order they were found.

    `checked` is the dataset, with the hash of every file that could be read.
    """

    problems: tuple[Problem, ...]
    checked: Dataset = field(repr=False)

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The findings that keep an item out."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The other findings."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    @property
    def accepted(self) -> Dataset:
        """The dataset without the items that have an error."""
        rejected = {problem.where for problem in self.errors}
        items = tuple(item for item in self.checked.items if item.place not in rejected)
        return replace(self.checked, items=items)

    def lines(self) -> list[str]:
        """One line per finding, errors first, then the counts."""
        found = [str(problem) for problem in (*self.errors, *self.warnings)]
        return [*found, f"{count(self.errors, 'error')}, {count(self.warnings, 'warning')}"]


def count(things: Sequence[object], name: str) -> str:
    """`1 error`, `2 errors`."""
    return f"{len(things):,} {name}{'' if len(things) == 1 else 's'}"
