"""From sources as they are to a dataset that can be trained on: read, check, sift, split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlclip.data.dataset import Dataset
from mlclip.data.problems import Report, count
from mlclip.data.read import Source, scan
from mlclip.data.splits import FRACTIONS, assign_splits
from mlclip.data.validate import Progress, validate
from mlclip.errors import DataError


@dataclass(frozen=True)
class Admitted:
    """A dataset in order, and what became of the rest.

    Attributes:
        dataset: every item has a file that decodes, a hash and a split.
        report: all findings; its errors name what was rejected.
        unlabelled: images left out because no label is known, or none was left.
        rare: classes left out because too few training images have them.
    """

    dataset: Dataset
    report: Report
    unlabelled: int
    rare: tuple[str, ...]

    @property
    def rejected(self) -> bool:
        """Whether an error kept something out: a command line then exits with 3."""
        return bool(self.report.errors)

    def lines(self) -> list[str]:
        """All findings, then what is in the dataset and what is not."""
        data = self.dataset
        splits = ", ".join(f"{name} {images:,}" for name, images in data.split_counts.items())
        labels = sum(len(item.labels) for item in data.items) / max(1, len(data))
        lines = [*self.report.lines(), f"{len(data):,} images: {splits}"]
        lines.append(f"{len(data.classes):,} classes, {labels:.2f} labels an image")
        if self.unlabelled:
            lines.append(f"left out: {self.unlabelled:,} images without a label")
        if self.rare:
            lines.append(f"left out: {count(self.rare, 'rare label')}")
        return lines


def admit(
    *sources: Source,
    labels: Path | None = None,
    images: Path | None = None,
    classes: Path | Sequence[str] | None = None,
    separator: str = "|",
    fractions: tuple[float, float, float] = FRACTIONS,
    seed: int = 0,
    min_count: int = 1,
    keep_unlabelled: bool = False,
    on_progress: Progress | None = None,
) -> Admitted:
    """Read sources, reject what is broken, leave out what is unlabelled, split, leave out what is rare.

    Args:
        *sources: as for `read_dataset`.
        labels: the labels file of a folder.
        images: folder that image paths start from.
        classes: a file with one class a line, or the names.
        separator: what stands between labels that come as one string.
        fractions: shares of train, val and test, as for `assign_splits`.
        seed: of the splits.
        min_count: a class with fewer training images is left out everywhere; 0 keeps classes nobody has.
        keep_unlabelled: keep images without a label, as pictures on which nothing is to be found.
        on_progress: called with images done and images in all.

    Raises:
        DataError: a source cannot be read as a whole, or nothing is left of it.
    """
    found, problems = scan(*sources, labels=labels, images=images, classes=classes, separator=separator)
    report = validate(found, problems=problems, on_progress=on_progress)
    accepted = report.accepted
    usable = accepted if keep_unlabelled else accepted.labelled()
    if not usable.items:
        raise DataError(_nothing_left(report))
    split = assign_splits(usable, fractions, seed)
    frequent = split.frequent(min_count)
    if not frequent:
        raise DataError(f"no label is on {min_count} training images: lower --min-count")
    sifted = split.with_classes(frequent)
    dataset = sifted if keep_unlabelled else sifted.labelled()
    rare = tuple(name for name in split.classes if name not in set(frequent))
    unlabelled = len(accepted) - len(dataset)
    return Admitted(dataset, report, unlabelled, rare)


def _nothing_left(report: Report) -> str:
    if report.errors:
        first = report.errors[0]
        return f"no image is usable; {count(report.errors, 'error')}, the first: {first.where}: {first.message}"
    return "no image has a label: check the labels column and the separator"
