"""Data preparation as document 002, 3.1.2 describes it: no duplicates, comparable splits, no rare labels.

Images without labels go; of near-duplicates one stays; the rest is split with strata by how many relevant examples an
image has; labels that too few training images carry go, and so do the images that then have none.

What the document leaves open, and ours: of near-duplicates the one with the most labels stays, of equals the first; an
image goes only for one that stays and that it is itself similar to, so chains do not collapse; its labels are merged
where that similarity reaches the second threshold; groups, and groups that a duplicate connects, are never split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlclip.data.changes import Change, reasons
from mlclip.data.dataset import Dataset, Item
from mlclip.data.duplicate_pairs import Points, fit_curve, group_answers
from mlclip.data.near_duplicates import near_duplicates
from mlclip.data.problems import count
from mlclip.data.similarity import (
    BLOCK,
    Embeddings,
    Index,
    Progress,
    highest_softmax,
    nearest,
    quiet,
)
from mlclip.data.splits import FRACTIONS, assign_splits, together
from mlclip.errors import DataError

Embed = Callable[[Sequence[Path]], Embeddings]

SMALLEST_STRATUM = 5
"""Images a stratum at least, where 60/20/20 can just be had: small sets have fewer strata."""


@dataclass(frozen=True)
class Preparation:
    """Settings of `prepare`.

    Attributes:
        fractions: shares of train, val and test.
        stratify: `similarity` spreads the strata below, `labels` every label (iterative stratification).
        strata: quantiles of the highest softmaxed similarity.
        temperature: factor on similarities before that softmax.
        min_count: a label with fewer training images is dropped everywhere; the document's is 50.
        resplit: do not keep the splits that items have.
        seed: of the splits.
        block: rows whose similarities are computed at a time.
    """

    fractions: tuple[float, float, float] = FRACTIONS
    stratify: Literal["similarity", "labels"] = "similarity"
    strata: int = 10
    temperature: float = 1.0
    min_count: int = 5
    resplit: bool = False
    seed: int = 0
    block: int = BLOCK


@dataclass(frozen=True)
class Prepared:
    """What is left, and what became of the rest.

    Attributes:
        dataset: without near-duplicates; every item has a label and a split.
        points: the two thresholds of similarity.
        changes: an entry for each image and label that was dropped, and each merge.
        given: how many images came in.
    """

    dataset: Dataset
    points: Points
    changes: tuple[Change, ...] = field(repr=False)
    given: int

    def lines(self) -> list[str]:
        """The summary: what came in, what went and why, what is left."""
        merges = [change for change in self.changes if change.action == "merged"]
        partners = Counter(change.partner for change in self.changes if change.action == "dropped" and change.partner)
        largest = max(partners.values(), default=0)
        splits = ", ".join(f"{name} {images:,}" for name, images in self.dataset.split_counts.items())
        return [
            f"{self.given:,} images came in",
            f"thresholds: suspected duplicates from {self.points.suspected:.4f} on, certain ones from "
            f"{self.points.certain:.4f} on{' (so none)' if self.points.certain > 1 else ''}",
            *(f"dropped: {images:,} images, {reason}" for reason, images in reasons(self.changes).items()),
            f"merged: {len({merge.partner for merge in merges}):,} images got labels of {len(merges):,} duplicates",
            *([f"largest set of near-duplicates: {largest + 1:,} images"] if largest else []),
            *(f"dropped: {n:,} labels, {reason}" for reason, n in reasons(self.changes, "label dropped").items()),
            f"{len(self.dataset):,} images are left: {splits}",
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

    Args:
        dataset: items whose files can be read.
        embed: gives the embeddings of image files, such as `FeatureCache(encoder).rows`.
        points: similarities of suspected and certain duplicates; by default from the items' groups.
        settings: see there.
        on_progress: called with blocks done and blocks in all, in each pass over the similarities.

    Returns:
        The prepared data set; the counts of its changes and its items add up to what came in.

    Raises:
        DataError: nothing is left, or groups do not tell the thresholds.
    """
    labelled = dataset.labelled()
    if not labelled.items:
        raise DataError("no image has a label: there is nothing to prepare")
    changes = [_dropped(item, "no label") for item in dataset.items if not item.labels]
    rows = embed([item.path for item in labelled.items])
    points = points or points_from_groups(labelled, rows, settings.block, on_progress)
    unique, kept, units, found = _drop_duplicates(labelled, rows, points, settings.block, on_progress)
    try:
        split = _split(unique, _Subset(rows, kept), units[kept], settings, on_progress)
    except DataError as error:
        duplicates = f"{len(rows) - len(kept):,} of {len(rows):,} images were near-duplicates"
        raise DataError(f"{error} ({duplicates}: other thresholds keep more)") from error
    final, rare = _drop_rare(split, settings.min_count)
    return Prepared(final, points, (*changes, *found, *rare), len(dataset))


def points_from_groups(dataset: Dataset, rows: Embeddings, block: int = BLOCK, on_progress: Progress = quiet) -> Points:
    """Thresholds from the pairs of each image and its most similar one: duplicates where their group is the same.

    Raises:
        DataError: groups do not tell; the message says what to do.
    """
    index, best = nearest(rows, block, on_progress)
    similarities, same = group_answers(dataset.items, index, best)
    try:
        return fit_curve(similarities, same).points()
    except DataError as error:
        raise DataError(f"groups do not tell what a duplicate is ({error}), or give --duplicates LOW HIGH") from error


def quantile_strata(values: npt.ArrayLike, strata: int) -> Index:
    """Number the quantile of each value, from 0: sets of equal size (to one), ties in the order given."""
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
    """The data set with one image of each cluster, its rows, units of all rows, and what was dropped and merged."""
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
    carried = {name: 0 for name in dataset.classes}
    for item in dataset.items:
        for label in item.labels:
            carried[label] += 1
    reason = f"fewer than {max(1, min_count)} training images"
    changes = [
        Change("label dropped", name, reason, images=images) for name, images in carried.items() if name not in frequent
    ]
    pairs = zip(dataset.items, left.items, strict=True)
    changes += [
        replace(_dropped(item, "only rare labels"), labels=item.labels) for item, new in pairs if not new.labels
    ]
    return left.labelled(), changes


def _dropped(item: Item, reason: str) -> Change:
    return Change("dropped", str(item.path), reason)
