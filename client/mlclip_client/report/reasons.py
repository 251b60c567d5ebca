"""The reference images behind a head's answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from mlclip_client.report import rows

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class References:
    """Which references stand behind which image.

    Attributes:
        ids: names of the references.
        labels: their labels.
        starts: [images + 1], where an image's references begin.
        which: [pairs], index into ids, heaviest first in each image.
        weights: [pairs], float32.
    """

    ids: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    starts: Ints
    which: Ints
    weights: npt.NDArray[np.float32]


class Reasons:
    """Takes the `references` column of one head batch by batch."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._labels: list[tuple[str, ...]] = []
        self._chunks: list[tuple[Ints, Ints, npt.NDArray[np.float32]]] = []

    def add(self, lists: pa.Array | None, first: int) -> None:
        """Take the references of images `first` and on."""
        if lists is None or pa.types.is_null(lists.type.value_type):
            return
        images, references = rows.items(lists)
        names, weights = rows.field(references, "id"), rows.field(references, "weight")
        if names is None or weights is None:
            return
        ids = pc.fill_null(names.cast(pa.string()), "").to_pylist()
        labels = rows.field(references, "labels")
        for place, name in enumerate(ids):
            if name not in self._known:
                self._known[name] = len(self._labels)
                self._labels.append(tuple(map(str, (labels[place].as_py() if labels is not None else None) or ())))
        which = np.array([self._known[name] for name in ids], np.int64)
        self._chunks.append((images + first, which, rows.floats(weights)))

    def finish(self, count: int) -> References | None:
        """Put them together for `count` images; None where there were none."""
        if not self._labels:
            return None
        images, which, weights = (np.concatenate(column) for column in zip(*self._chunks, strict=True))
        order = np.lexsort((-weights, images))
        starts = np.concatenate([[0], np.bincount(images, minlength=count).cumsum()]).astype(np.int64)
        return References(tuple(self._known), tuple(self._labels), starts, which[order], weights[order])
