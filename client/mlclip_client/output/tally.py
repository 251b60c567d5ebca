"""What has come of the inputs so far, for people, exit codes and Prometheus."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mlclip_client.output.rows import REJECTED_KINDS, Row
from mlclip_client.wording import counted

DONE, FAILED, USAGE, REJECTED = 0, 1, 2, 3
"""Exit codes: all inputs labelled; the server or the run failed; wrong arguments; inputs were rejected."""


@dataclass
class Tally:
    """Counts of rows.

    Attributes:
        labelled: inputs with answers.
        rejected: error kind -> inputs that cannot be used.
        failed: error kind -> inputs that the server gave no answer for.
        last_failure: the latest message among the failed.
    """

    labelled: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    last_failure: str = ""

    @property
    def errors(self) -> int:
        """How many inputs have no answers."""
        return self.rejected.total() + self.failed.total()

    @property
    def rows(self) -> int:
        """How many inputs there were."""
        return self.labelled + self.errors

    def add(self, row: Row) -> None:
        """Count one row."""
        kind = row["error_kind"]
        if kind is None:
            self.labelled += 1
        elif kind in REJECTED_KINDS:
            self.rejected[kind] += 1
        else:
            self.failed[kind] += 1
            self.last_failure = row["error"]

    def exit_code(self) -> int:
        """Give the exit code that says this to scripts."""
        if self.failed:
            return FAILED
        return REJECTED if self.rejected else DONE

    def __str__(self) -> str:
        text = f"{counted(self.rows, 'input')}: {self.labelled:,} labelled"
        kinds = [f"{count:,} {kind}" for kind, count in (self.rejected + self.failed).most_common()]
        return f"{text}, {self.errors:,} with an error ({', '.join(kinds)})" if kinds else text
