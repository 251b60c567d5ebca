"""Data preparation as document 002, 3.1.2 describes it: no duplicates, comparable splits, no rare labels.

Images without labels are dropped; of near-duplicates one stays; the rest is split with strata by how many relevant
examples an image has; labels of too few training images are dropped, and so are the images that then have none.

The document leaves open, and we chose: of near-duplicates the one with the most labels stays, of equals the first; an
image is dropped only for one that stays and that it is itself similar to, so chains do not collapse; its labels are
merged where that similarity reaches the second threshold; groups, and groups connected by a duplicate, are never split.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlclip.data.changes import Change, reasons
from mlclip.data.dataset import Dataset, Item, Progress, quiet
from mlclip.data.duplicate_pairs import Points, points_from_groups
from mlclip.data.near_duplicates import near_duplicates
from mlclip.data.problems import count
from mlclip.data.similarity import BLOCK, Embeddings, Index, highest_softmax
from mlclip.data.splits import FRACTIONS, assign_splits, together
from mlclip.errors import DataError

Embed = Callable[[Sequence[Path]], Embeddings]

SMALLEST_STRATUM = 5  # fewest images per stratum, with which 60/20/20 is just possible: small sets have fewer strata


@dataclass(frozen=True)
class Preparation:
    """Settings of `prepare`."""

    fractions: tuple[float, float, float] = FRACTIONS
    # `similarity` spreads the strata below, `labels` every label (iterative stratification)
    stratify: Literal["similarity", "labels"] = "similarity"
    strata: int = 10  # quantiles of the highest softmaxed similarity
    temperature: float = 1.0  # factor on similarities before that softmax
    min_count: int = 5  # a label with fewer training images is dropped everywhere; the document has 50
    resplit: bool = False  # do not keep the splits that items have
    seed: int = 0
    block: int = BLOCK  # rows compared at a time


@dataclass(frozen=True)
class Prepared:
    """What is left of `given` images (every item has a label and a split), and what was dropped and merged."""

    dataset: Dataset
    points: Points
    changes: tuple[Change, ...] = field(repr=False)
    given: int

    def lines(self) -> list[str]:
        """The summary: images before, what was dropped and why, what is left."""
        merges = [change for change in self.changes if change.action == "merged"]
        partners = Counter(change.partner for change in self.changes if change.action == "dropped" and change.partner)
        largest = max(partners.values(), default=0)
        return [
            f"{self.given:,} images came in",
            f"thresholds: suspected duplicates from {self.points.suspected:.4f} on, certain ones from "
            f"{self.points.certain:.4f} on{' (so none)' if self.points.certain > 1 else ''}",
            *(f"dropped: {images:,} images, {reason}" for reason, images in reasons(self.changes).items()),
            f"merged: {len({merge.partner for merge in merges}):,} images got labels of {len(merges):,} duplicates",
            *([f"largest set of near-duplicates: {largest + 1:,} images"] if largest else []),
            *(f"dropped: {n:,} labels, {reason}" for reason, n in reasons(self.changes, "label dropped").items()),
            f"{len(self.dataset):,} images are left: {self.dataset.split_line()}",
            f"{count(self.dataset.classes, 'label')} {'is' if len(self.dataset.classes) == 1 else 'are'} left",
        ]


def prepare(
    dataset: Dataset,
    embed: Embed,
    points: Points | None = None,
    settings: Preparation = Preparation(),
    on_progress: Progress = quiet,
) -> Prepared:
    """Drop what has no label, near-duplicates and rare labels, and split.

    The images that are dropped and those that are left add up to those before.

    `embed` gives the embeddings of image files, such as `FeatureCache(encoder).rows`. Without `points` the thresholds
    come from the items' groups. `on_progress` is called with blocks done and blocks in all of each pass over the
    similarities. Raises DataError if nothing is left, or if groups do not tell the thresholds.
    """
    labelled = dataset.labelled()
    if not labelled.items:
        raise DataError("no image has a label: there is nothing to prepare")
    changes = [_dropped(item, "no label") for item in dataset.items if not item.labels]
    rows = embed([item.path for item in labelled.items])
    points = points or points_from_groups(labelled.items, rows, settings.block, on_progress)
    unique, kept, units, found = _drop_duplicates(labelled, rows, points, settings.block, on_progress)
    try:
        split = _split(unique, _Subset(rows, kept), units[kept], settings, on_progress)
    except DataError as error:
        duplicates = f"{len(rows) - len(kept):,} of {len(rows):,} images were near-duplicates"
        raise DataError(f"{error} ({duplicates}: other thresholds keep more)") from error
    final, rare = _drop_rare(split, settings.min_count)
    return Prepared(final, points, (*changes, *found, *rare), len(dataset))


def quantile_strata(values: npt.ArrayLike, strata: int) -> Index:
    """The quantile of each value, from 0: sets whose sizes differ by at most one, ties in the order given."""
    order = np.argsort(np.asarray(values), kind="stable")
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks * strata // max(1, len(order))


@dataclass(frozen=True)
class _Subset:
    rows: Embeddings
    kept: Index

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: Index | slice, /) -> npt.NDArray[np.float32]:
        return self.rows[self.kept[index]]


def _drop_duplicates(
    dataset: Dataset, rows: Embeddings, points: Points, block: int, on_progress: Progress
) -> tuple[Dataset, Index, Index, list[Change]]:
    """The data set without duplicates, its rows, units of all rows, and what was dropped and merged."""
    if not points.suspected <= points.certain:
        raise DataError(f"the threshold of certain duplicates must not be below that of suspected ones: {points}")
    items, changes = list(dataset.items), []
    many = [len(item.labels) for item in items]
    partner, similarities = near_duplicates(rows, points.suspected, many, block, on_progress)
    for row, kept in enumerate(partner.tolist()):
        if kept != row:
            similarity = float(similarities[row])
            items[kept], found = _merge(items[kept], items[row], similarity, similarity >= points.certain)
            changes += found
    order = np.flatnonzero(partner == np.arange(len(rows)))
    left = replace(dataset, items=tuple(items[row] for row in order))
    return left, order, together(dataset.items, partner.tolist()), changes


def _merge(kept: Item, dropped: Item, similarity: float, certain: bool) -> tuple[Item, list[Change]]:
    reason = "certain near-duplicate" if certain else "suspected near-duplicate"
    entry = Change("dropped", str(dropped.path), reason, str(kept.path), similarity, dropped.labels)
    new = tuple(label for label in dropped.labels if label not in kept.labels) if certain else ()
    if not new:
        return kept, [entry]
    merge = replace(entry, action="merged", labels=new)
    return replace(kept, labels=kept.labels + new), [entry, merge]


def _split(dataset: Dataset, rows: Embeddings, units: Index, settings: Preparation, on_progress: Progress) -> Dataset:
    if settings.resplit:
        dataset = replace(dataset, items=tuple(replace(item, split=None) for item in dataset.items))
    strata = None
    if settings.stratify == "similarity":
        values = highest_softmax(rows, settings.temperature, settings.block, on_progress)
        strata = quantile_strata(values, max(1, min(settings.strata, len(dataset) // SMALLEST_STRATUM)))
    return assign_splits(dataset, settings.fractions, settings.seed, strata=strata, units=units)


def _drop_rare(dataset: Dataset, min_count: int) -> tuple[Dataset, list[Change]]:
    frequent = set(dataset.frequent(max(1, min_count)))
    if not frequent:
        raise DataError(f"no label is on {min_count} training images: lower --min-count")
    left = dataset.with_classes([name for name in dataset.classes if name in frequent])
    images = Counter(label for item in dataset.items for label in item.labels)
    reason = f"fewer than {max(1, min_count)} training images"
    rare = [name for name in dataset.classes if name not in frequent]
    changes = [Change("label dropped", name, reason, images=images[name]) for name in rare]
    pairs = zip(dataset.items, left.items, strict=True)
    changes += [_dropped(item, "only rare labels", item.labels) for item, new in pairs if not new.labels]
    return left.labelled(), changes


def _dropped(item: Item, reason: str, labels: tuple[str, ...] = ()) -> Change:
    return Change("dropped", str(item.path), reason, labels=labels)
