"""The loop of the bulk tool: predictions in, rows out, and a tally of what came of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mlclip_client.errors import BadImage
from mlclip_client.outputs import WriteRow
from mlclip_client.rows import RowOptions, to_row
from mlclip_client.values import Prediction

DONE, FAILED, USAGE, REJECTED = 0, 1, 2, 3
"""Exit codes: all images labelled; the server or the run failed; wrong arguments; images were rejected."""


@dataclass
class Tally:
    """What has come of the images so far.

    Attributes:
        labelled: images with answers.
        rejected: error kind -> images that could not be used.
        failed: error kind -> images that the server gave no answer for.
        last_failure: the latest message among the failed.
        interrupted: the run was stopped by hand.
    """

    labelled: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    last_failure: str = ""
    interrupted: bool = False

    @property
    def errors(self) -> int:
        """How many images have no answers."""
        return self.rejected.total() + self.failed.total()

    def add(self, prediction: Prediction) -> None:
        """Count one prediction."""
        error = prediction.error
        if error is None:
            self.labelled += 1
        elif isinstance(error, BadImage):
            self.rejected[error.kind] += 1
        else:
            self.failed[error.kind] += 1
            self.last_failure = str(error)

    def exit_code(self) -> int:
        """Give the exit code that says this to scripts."""
        if self.failed or self.interrupted:
            return FAILED
        return REJECTED if self.rejected else DONE

    def __str__(self) -> str:
        text = f"{self.labelled + self.errors:,} images: {self.labelled:,} labelled"
        kinds = [f"{count:,} {kind}" for kind, count in (self.rejected + self.failed).most_common()]
        return f"{text}, {self.errors:,} with an error ({', '.join(kinds)})" if kinds else text


def write_rows(
    predictions: Iterable[Prediction],
    write: WriteRow,
    options: RowOptions,
    after_each: Callable[[Tally], None],
) -> Tally:
    """Write one row a prediction, until the end or Ctrl-C, which keeps the rows so far.

    Args:
        predictions: in the order in which rows shall stand.
        write: takes a row.
        options: which columns rows have.
        after_each: called with the tally after every row, to show progress.
    """
    tally = Tally()
    try:
        for prediction in predictions:
            write(to_row(prediction, options))
            tally.add(prediction)
            after_each(tally)
    except KeyboardInterrupt:
        tally.interrupted = True
    return tally
