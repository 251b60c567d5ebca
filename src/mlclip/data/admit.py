"""From raw sources to a dataset that can be trained on: read, check, filter, split."""

from dataclasses import dataclass
from typing import Unpack

from mlclip.data.dataset import Dataset, Progress, quiet
from mlclip.data.problems import Report, count
from mlclip.data.read import ReadOptions, Source, scan
from mlclip.data.splits import FRACTIONS, assign_splits
from mlclip.data.validate import validate
from mlclip.errors import DataError


@dataclass(frozen=True)
class Admitted:
    """A dataset that can be trained on, and what was left out of it."""

    dataset: Dataset  # every item has a file that decodes, a hash and a split
    report: Report  # all findings; the items of its errors were rejected
    unlabelled: int  # images left out because no label is known, or none was left
    rare: tuple[str, ...]  # classes left out because too few training images have them

    @property
    def rejected(self) -> bool:
        """Whether an error kept something out; a command line then exits with 3."""
        return bool(self.report.errors)

    def lines(self) -> list[str]:
        """All findings, then what is in the dataset and what was left out."""
        data = self.dataset
        labels = sum(len(item.labels) for item in data.items) / max(1, len(data))
        lines = [*self.report.lines(), f"{len(data):,} images: {data.split_line()}"]
        lines.append(f"{len(data.classes):,} classes, {labels:.2f} labels per image")
        if self.unlabelled:
            lines.append(f"left out: {self.unlabelled:,} images without a label")
        if self.rare:
            lines.append(f"left out: {count(self.rare, 'rare label')}")
        return lines


def admit(
    *sources: Source,
    fractions: tuple[float, float, float] = FRACTIONS,
    seed: int = 0,
    min_count: int = 1,
    keep_unlabelled: bool = False,
    on_progress: Progress = quiet,
    **options: Unpack[ReadOptions],
) -> Admitted:
    """Read sources, reject broken items, leave out unlabelled ones, split, leave out rare labels.

    A class with fewer training images than `min_count` is left out everywhere; 0 keeps classes without images.
    `keep_unlabelled` keeps images without a label, as pictures on which nothing is to be found. For the other arguments
    see `Source`, `ReadOptions` and `assign_splits`. Raises DataError if a source as a whole cannot be read, or if
    nothing is left of it.
    """
    found, problems = scan(*sources, **options)
    report = validate(found, problems=problems, on_progress=on_progress)
    accepted = report.accepted
    usable = accepted if keep_unlabelled else accepted.labelled()
    if not usable.items:
        unlabelled = "no image has a label: check the labels column and the separator"
        raise DataError(f"no image is usable{_first_error(report)}" if report.errors else unlabelled)
    try:
        split = assign_splits(usable, fractions, seed)
    except DataError as error:
        raise DataError(f"{error}{_first_error(report)}") from error
    frequent = split.frequent(min_count)
    if not frequent:
        raise DataError(f"no label is on {min_count} training images: lower --min-count{_first_error(report)}")
    kept = split.with_classes(frequent)
    dataset = kept if keep_unlabelled else kept.labelled()
    rare = tuple(name for name in split.classes if name not in set(frequent))
    return Admitted(dataset, report, len(accepted) - len(dataset), rare)


def _first_error(report: Report) -> str:
    """What follows a message about too few images, where errors have kept some out."""
    if not report.errors:
        return ""
    first = report.errors[0]
    return f"; {count(report.errors, 'error')}, the first: {first.where}: {first.message}"
