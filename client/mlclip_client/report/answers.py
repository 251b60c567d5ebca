"""What one head said about all images: sparse scores that a page can hold, and the references behind them.

Scores come from the listed best labels, from the selected labels, and from `all_scores` where the file's metadata names
the classes in their order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from mlclip_client.output.rows import HeadClasses
from mlclip_client.report import rows
from mlclip_client.report.entries import SCALE, Entries, Ints, numbered, quantised, ranked

MAX_ENTRIES = 3_000_000  # how many of `all_scores` the page keeps per head: the highest
Source = tuple[str, str, str]  # model, its version, and the hash of its labels.txt


@dataclass(frozen=True)
class References:
    """Which reference images stand behind which image."""

    labels: Mapping[str, tuple[str, ...]]
    starts: Ints  # [images + 1], where an image's references begin
    which: Ints  # [pairs], places in `labels`, heaviest first within each image
    weights: npt.NDArray[np.float32]  # [pairs]


@dataclass(frozen=True)
class HeadScores:
    """One head's entries, by image, then by score, best first."""

    classes: tuple[str, ...]  # N names; in the head's order if the file names its classes
    thresholds: Sequence[float] | None  # N thresholds, if the file has those of the version that answered
    sources: Mapping[Source, int]  # which models answered -> how many images
    answered: npt.NDArray[np.bool_]  # bool [images]
    starts: Ints  # [images + 1], where an image's entries begin
    class_of: Ints  # [entries], as are `scores` and `selected`
    scores: npt.NDArray[np.uint16]  # 0 to SCALE
    selected: npt.NDArray[np.bool_]
    complete: bool  # whether every score from `floor` on is here; otherwise, listed and selected labels
    floor: float  # 0 to 1
    listed: int  # how many best labels each image lists
    notes: tuple[str, ...]  # what a reader must know about these scores
    references: References | None
    novelty: npt.NDArray[np.float32]  # [images], NaN where unknown
    known: HeadClasses | None  # what the file says about the head, if it answered with the same labels


class HeadCollector:
    """Takes one head's answers batch by batch; `known` are its classes, if the file names them."""

    def __init__(self, known: HeadClasses | None, max_entries: int = MAX_ENTRIES) -> None:
        self._known = known
        self._max_entries = max_entries
        self._ids = {name: place for place, name in enumerate(known.labels)} if known else {}
        self._sources: Counter[Source] = Counter()
        self._answered: list[tuple[int, npt.NDArray[np.bool_]]] = []
        self._listed, self._selected, self._dense = Entries(), Entries(), Entries()
        self._dense_images = self._floor = self._most_listed = 0
        self._has_all_scores = False
        self._novelty: list[tuple[int, npt.NDArray[np.float32]]] = []
        self._references = _ReferenceCollector()

    def add(self, answers: pa.StructArray, first: int) -> None:
        """Take the answers of images `first` and on; null where an image has none."""
        answered = np.asarray(pc.is_valid(answers).to_numpy(zero_copy_only=False), dtype=np.bool_)
        self._answered.append((first, answered))
        self._count_sources(answers.filter(pa.array(answered)))
        images = self._add_named(self._listed, answers, "top_labels", "top_scores", first)
        self._most_listed = max(self._most_listed, int(np.bincount(images).max(initial=0)))
        self._add_named(self._selected, answers, "labels", "scores", first)
        self._add_dense(rows.field(answers, "all_scores", rows.NUMBERS), first)
        self._references.add(rows.field(answers, "references"), first)
        self._novelty.append((first, rows.field(answers, "novelty", pa.float32()).to_numpy(zero_copy_only=False)))

    def finish(self, count: int) -> HeadScores:
        """Put everything together for `count` images."""
        answered, novelty = np.zeros(count, np.bool_), np.full(count, np.nan, np.float32)
        for (first, part), (_, values) in zip(self._answered, self._novelty, strict=True):
            answered[first : first + len(part)], novelty[first : first + len(part)] = part, values
        versions, hashes = ({source[place] for source in self._sources} for place in (1, 2))
        known = self._known if self._known and hashes == {self._known.labels_sha256} else None
        complete = known is not None and 0 < self._dense_images == int(answered.sum())
        parts = [self._listed.joined(), self._selected.joined(), *([self._dense.joined()] if complete else [])]
        images, ids, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
        size = max(1, len(self._ids))
        keys, places = np.unique(images * size + ids, return_index=True)
        chosen = np.isin(keys, parts[1][0] * size + parts[1][1])
        starts, order = ranked(images[places], scores[places], count)
        return HeadScores(
            classes=tuple(self._ids),
            thresholds=known.thresholds if known and versions == {known.version} else None,
            sources=dict(self._sources.most_common()),
            answered=answered,
            starts=starts,
            class_of=ids[places][order],
            scores=scores[places][order].astype(np.uint16),
            selected=chosen[order],
            complete=complete,
            floor=self._floor / SCALE if complete else 0.0,
            listed=self._most_listed,
            notes=tuple(self._notes(hashes, complete)),
            references=self._references.finish(count),
            novelty=novelty,
            known=known,
        )

    def _count_sources(self, answers: pa.StructArray) -> None:
        columns = (rows.field(answers, name, pa.string()) for name in ("model", "version", "labels_sha256"))
        self._sources.update(zip(*(pc.fill_null(column, "").to_pylist() for column in columns), strict=True))

    def _add_named(self, entries: Entries, answers: pa.StructArray, labels: str, scores: str, first: int) -> Ints:
        """Take listed labels with their scores; gives the image of each, counted from `first`."""
        images, names = rows.items(rows.field(answers, labels, rows.NAMES))
        images_of_scores, numbers = rows.items(rows.field(answers, scores, rows.NUMBERS))
        if not np.array_equal(images, images_of_scores):
            raise ValueError(f"a row does not have one score per label in {labels} and {scores}")
        entries.add(images + first, numbered(names, self._ids), quantised(rows.finite(numbers)))
        return images

    def _add_dense(self, lists: pa.ListArray, first: int) -> None:
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        self._has_all_scores |= bool(lengths.any())
        if self._known is None:
            return
        width = len(self._known.labels)
        fitting = np.flatnonzero(lengths == width)
        self._dense_images += len(fitting)
        scores = quantised(rows.finite(pc.list_flatten(lists.take(pa.array(fitting))))).reshape(-1, width)
        image, place = np.nonzero(scores >= self._floor)
        self._dense.add(fitting[image] + first, place, scores[image, place])
        if self._dense.count > 2 * self._max_entries:
            self._floor = self._dense.keep_highest(self._max_entries)

    def _notes(self, hashes: set[str], complete: bool) -> list[str]:
        notes = []
        if len(hashes) > 1:
            notes.append(f"These rows mix answers from {len(hashes)} different label lists.")
        if len(self._sources) > len(hashes):
            notes.append("These rows mix answers from several model versions.")
        if self._has_all_scores and not complete:
            reason = "not every answer has those of the file’s label list"
            if self._known is None:
                reason = "the file does not name the classes in their order, as only the client’s Parquet files do"
            notes.append(f"The scores of all classes are not used: {reason}.")
        return notes


class _ReferenceCollector:
    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._labels: list[tuple[str, ...]] = []
        self._chunks: list[tuple[Ints, Ints, npt.NDArray[np.float32]]] = []

    def add(self, lists: pa.Array, first: int) -> None:
        """Take the references of images `first` and on."""
        if pa.types.is_null(lists.type):
            return
        images, references = rows.items(lists)
        which = numbered(rows.field(references, "id", pa.string()), self._ids)
        labels = rows.field(references, "labels", rows.NAMES)
        _, places = np.unique(which, return_index=True)
        for place in places[which[places] >= len(self._labels)].tolist():
            self._labels.append(tuple(labels[place].as_py() or ()))
        weights = rows.finite(rows.field(references, "weight", pa.float32()))
        self._chunks.append((images + first, which, weights))

    def finish(self, count: int) -> References | None:
        """Put them together for `count` images; None if there are none."""
        if not self._labels:
            return None
        images, which, weights = (np.concatenate(column) for column in zip(*self._chunks, strict=True))
        starts, order = ranked(images, weights, count)
        return References(dict(zip(self._ids, self._labels, strict=True)), starts, which[order], weights[order])
