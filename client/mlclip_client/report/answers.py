"""What one head said about all images, as sparse scores that a page can hold.

Entries come from the listed best labels, from the selected ones, and
from `all_scores` where there are any. Those carry no names: they are learned from the labels that rows do name,
or come from a labels.txt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from mlclip_client.report import rows
from mlclip_client.report.entries import SCALE, Entries, Ints, quantised
from mlclip_client.report.reasons import Reasons

MAX_ENTRIES = 3_000_000
"""Of `all_scores`, the highest are kept for the page: this many a head."""
Source = tuple[str, str, str]
"""Model, its version, and the hash of its labels.txt."""


@dataclass(frozen=True)
class HeadScores:
    """One head's entries, by image, then by score, best first.

    Attributes:
        classes: N names; of `all_scores` without a name, "class 17".
        sources: which models answered -> how many images.
        answered: bool [rows].
        starts: [rows + 1], where an image's entries begin.
        class_of, scores, selected: [entries]; scores are 0 to SCALE.
        complete: every score from `floor` on is here; otherwise only the listed labels are.
        floor: 0 to 1.
        listed: how many best labels each image lists, if not complete.
        notes: what a reader must know about these scores.
    """

    classes: tuple[str, ...]
    sources: Mapping[Source, int]
    answered: npt.NDArray[np.bool_]
    starts: Ints
    class_of: Ints
    scores: npt.NDArray[np.uint16]
    selected: npt.NDArray[np.bool_]
    complete: bool
    floor: float
    listed: int
    notes: tuple[str, ...]


class HeadCollector:
    """Takes one head's answers batch by batch.

    Args:
        max_entries: how many of `all_scores` to keep.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self.reasons = Reasons()
        self._max_entries = max_entries
        self._ids: dict[str, int] = {}
        self._positions: dict[str, int] = {}
        self._sources: Counter[Source] = Counter()
        self._answered: list[tuple[int, npt.NDArray[np.bool_]]] = []
        self._listed, self._selected, self._dense = Entries(), Entries(), Entries()
        self._widths: set[int] = set()
        self._dense_images = self._floor = self._most_listed = 0

    def add(self, answers: pa.StructArray, first: int) -> None:
        """Take the answers of images `first` and on; null where an image has none.

        Raises:
            ValueError: labels and scores do not go together.
        """
        answered = np.asarray(pc.is_valid(answers).to_numpy(zero_copy_only=False), dtype=np.bool_)
        self._answered.append((first, answered))
        self._count_sources(answers)
        for entries, labels, scores in (
            (self._listed, "top_labels", "top_scores"),
            (self._selected, "labels", "scores"),
        ):
            images, classes, values = self._named(answers, labels, scores)
            entries.add(images + first, classes, values)
            if entries is self._listed and len(images):
                self._most_listed = max(self._most_listed, int(np.bincount(images).max()))
        self._add_dense(answers, first)
        self.reasons.add(rows.field(answers, "references"), first)

    def finish(self, count: int, given: Mapping[str, tuple[str, ...]]) -> HeadScores:
        """Put everything together.

        Args:
            count: how many images there are.
            given: hash of a labels.txt -> its lines, to name classes that no row names.
        """
        hashes = {source[2] for source in self._sources}
        answered = np.zeros(count, np.bool_)
        for first, part in self._answered:
            answered[first : first + len(part)] = part
        wide = len(self._widths) == 1 and len(hashes) <= 1 and self._dense_images == int(answered.sum())
        width = max(self._widths) if wide else 0
        names = given.get(min(hashes, default=""), ())
        positions = {name: place for place, name in enumerate(names)} if names else self._positions if wide else {}
        classes, new_id = self._order(positions, width)
        parts = [
            (images, new_id[ids], scores) for images, ids, scores in (self._listed.joined(), self._selected.joined())
        ]
        chosen = parts[1][0] * len(classes) + parts[1][1]
        images, class_of, scores = (
            np.concatenate(column) for column in zip(*parts, *([self._dense.joined()] if wide else []), strict=True)
        )
        keys, firsts = np.unique(images * max(1, len(classes)) + class_of, return_index=True)
        images, class_of, scores = images[firsts], class_of[firsts], scores[firsts]
        order = np.lexsort((class_of, -scores, images))
        return HeadScores(
            classes=classes,
            sources=dict(self._sources.most_common()),
            answered=answered,
            starts=np.concatenate([[0], np.bincount(images, minlength=count).cumsum()]).astype(np.int64),
            class_of=class_of[order],
            scores=scores[order].astype(np.uint16),
            selected=np.isin(keys, chosen)[order],
            complete=wide,
            floor=self._floor / SCALE if wide else 0.0,
            listed=self._most_listed,
            notes=tuple(self._notes(hashes, wide)),
        )

    def _count_sources(self, answers: pa.StructArray) -> None:
        columns = [rows.field(answers, name) for name in ("model", "version", "labels_sha256")]
        texts = [[None] * len(answers) if column is None else column.to_pylist() for column in columns]
        valid = pc.is_valid(answers).to_pylist()
        self._sources.update(
            (str(model or ""), str(version or ""), str(digest or ""))
            for model, version, digest, there in zip(*texts, valid, strict=True)
            if there
        )

    def _named(self, answers: pa.StructArray, labels: str, scores: str) -> tuple[Ints, Ints, Ints]:
        names, values = rows.field(answers, labels), rows.field(answers, scores)
        if names is None or values is None:
            empty = np.zeros(0, np.int64)
            return empty, empty, empty
        images, flat = rows.items(names)
        images_of_scores, numbers = rows.items(values)
        if not np.array_equal(images, images_of_scores):
            raise ValueError(f"a row has not one score a label in {labels} and {scores}")
        return images, self._ids_of(flat), quantised(rows.floats(numbers))

    def _ids_of(self, names: pa.Array) -> Ints:
        coded = pc.fill_null(names.cast(pa.string()), "").dictionary_encode()
        known = [self._ids.setdefault(name, len(self._ids)) for name in coded.dictionary.to_pylist()]
        ids: Ints = np.array(known, np.int64)[coded.indices.to_numpy(zero_copy_only=False)]
        return ids

    def _add_dense(self, answers: pa.StructArray, first: int) -> None:
        lists = rows.field(answers, "all_scores")
        if lists is None:
            return
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        there = np.flatnonzero(lengths)
        self._widths.update(np.unique(lengths[there]).tolist())
        self._dense_images += len(there)
        if len(self._widths) != 1 or not len(there):
            return
        scores = rows.floats(pc.list_flatten(lists)).reshape(len(there), -1)
        self._learn_positions(answers, there, scores)
        whole = quantised(scores)
        image, position = np.nonzero(whole >= self._floor)
        self._dense.add(there[image] + first, position, whole[image, position])
        if self._dense.count > 2 * self._max_entries:
            self._floor = self._dense.keep_highest(self._max_entries)

    def _learn_positions(self, answers: pa.StructArray, there: Ints, scores: npt.NDArray[np.float32]) -> None:
        """Find where in `all_scores` a label stands.

        The best labels stand where the scores' own order says, ties in class order as the client lists them; a
        selected one there where its score is, if no other class has the same.
        """
        for labels, values in (("top_labels", "top_scores"), ("labels", "scores")):
            names, numbers = rows.field(answers, labels), rows.field(answers, values)
            if names is None or numbers is None:
                continue
            for dense, image in zip(scores, there.tolist(), strict=True):
                named = names[image].as_py() or ()
                if len(self._positions) == len(dense) or all(name in self._positions for name in named):
                    continue
                ranked = np.argsort(-dense, kind="stable")
                for rank, (name, score) in enumerate(zip(named, numbers[image].as_py(), strict=False)):
                    places = np.flatnonzero(dense == np.float32(score))
                    if labels == "top_labels" and ranked[rank] in places:
                        self._positions.setdefault(name, int(ranked[rank]))
                    elif len(places) == 1:
                        self._positions.setdefault(name, int(places[0]))

    def _order(self, positions: Mapping[str, int], width: int) -> tuple[tuple[str, ...], Ints]:
        """Classes in the head's order as far as it is known, and own number -> place in that order."""
        size = max(width, len(positions), max(positions.values(), default=-1) + 1)
        names = [f"class {place}" for place in range(size)]
        for name, place in positions.items():
            names[place] = name
        places = dict(positions)
        for name in self._ids:
            if name not in places:
                places[name] = len(names)
                names.append(name)
        return tuple(names), np.array([places[name] for name in self._ids], np.int64)

    def _notes(self, hashes: set[str], wide: bool) -> list[str]:
        notes = []
        if len(hashes) > 1:
            notes.append(f"Answers of {len(hashes)} different label lists are mixed in these rows.")
        if len(self._sources) > len(hashes):
            notes.append("Answers of several model versions are mixed in these rows.")
        if self._dense.count and not wide:
            notes.append("The scores of all classes could not be used: rows have different ones, or not all have them.")
        return notes
