"""When a run stops: after too many errors in a row."""

from dataclasses import dataclass, field

from mlclip_client.errors import JobError, error_class
from mlclip_client.output.rows import Row


@dataclass
class Limit:
    """Stops a run after `most` consecutive errors; 0: never."""

    most: int
    # what the message says of the rows so far
    kept: str = "finished shards are kept: remove the cause and repeat the same command, or raise --max-failures"
    inputs: bool = True  # also count errors that are the input's fault
    _consecutive: int = field(default=0, init=False)

    def count(self, row: Row) -> None:
        """Count a row; raises JobError."""
        kind = row["error_kind"]
        failed = kind is not None and (self.inputs or not error_class(kind).input_fault)
        self._consecutive = self._consecutive + 1 if failed else 0
        if self.most and self._consecutive >= self.most:
            raise JobError(
                f"stopped after {self._consecutive:,} errors in a row, the last one {kind}: {row['error']}; {self.kept}"
            )
