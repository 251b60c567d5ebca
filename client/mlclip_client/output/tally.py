"""The only counts: of rows, for people, exit codes, Prometheus, the footers of shards and Ray's workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlclip_client.errors import KnownFile, error_class
from mlclip_client.wording import counted

if TYPE_CHECKING:
    from mlclip_client.output.rows import Row

DONE, FAILED, USAGE, REJECTED = 0, 1, 2, 3
"""Exit codes: all inputs labelled; the server or the run failed; wrong arguments; inputs were rejected."""


@dataclass
class Tally:
    """Counts of rows."""

    labelled: int = 0  # rows with answers
    errors: Counter[str] = field(default_factory=Counter)  # kind -> rows with an error of that kind
    last_failure: str = ""  # message of the latest error that is not the input's fault
    saved: int = 0  # inputs that took the answer of the same bytes
    retries: int = 0  # requests that were sent again

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Tally:
        """Count some rows."""
        tally = cls()
        for row in rows:
            tally.count(row)
        return tally

    @property
    def rows(self) -> int:
        """All rows, with and without answers."""
        return self.labelled + self.errors.total()

    @property
    def failed(self) -> int:
        """Rows with an error that is not the input's fault."""
        return sum(count for kind, count in self.errors.items() if not error_class(kind).input_fault)

    @property
    def rejected(self) -> int:
        """Rows with an error, known files left out: nobody wants an answer about those."""
        return self.errors.total() - self.errors[KnownFile.kind]

    @property
    def kinds(self) -> str:
        """The errors by kind, the most frequent first, known files left out: `2 decode, 1 server`."""
        return ", ".join(f"{n:,} {kind}" for kind, n in self.errors.most_common() if kind != KnownFile.kind)

    def count(self, row: Row) -> None:
        """Count one row."""
        kind = row["error_kind"]
        if kind is None:
            self.labelled += 1
            return
        self.errors[kind] += 1
        if not error_class(kind).input_fault:
            self.last_failure = row["error"]

    def add(self, other: Tally) -> None:
        """Add other counts to these."""
        self.labelled += other.labelled
        self.errors.update(other.errors)
        self.last_failure = other.last_failure or self.last_failure
        self.saved += other.saved
        self.retries += other.retries

    def exit_code(self) -> int:
        """Give the exit code of a command that wrote these rows."""
        if self.failed:
            return FAILED
        return REJECTED if self.rejected else DONE

    def to_json(self) -> dict[str, Any]:
        """Give the counts as plain JSON values; a shard's footer holds only `rows` and `errors`."""
        more = {"saved": self.saved, "retries": self.retries}
        return {"rows": self.rows, "errors": dict(self.errors)} | {name: value for name, value in more.items() if value}

    @classmethod
    def from_json(cls, counts: Mapping[str, Any]) -> Tally:
        """Read what `to_json` gave."""
        errors = Counter[str](counts["errors"])
        return cls(
            counts["rows"] - errors.total(), errors, saved=counts.get("saved", 0), retries=counts.get("retries", 0)
        )

    def __str__(self) -> str:
        text = f"{counted(self.rows, 'input')}: {self.labelled:,} labelled"
        if known := self.errors[KnownFile.kind]:
            text += f", {known:,} known"
        return f"{text}, {self.rejected:,} with an error ({self.kinds})" if self.rejected else text
