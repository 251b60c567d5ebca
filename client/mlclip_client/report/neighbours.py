"""Embeddings, and the most similar rows of every row by their cosine."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from mlclip_client.report import rows

MAX_ROWS = 50_000  # every row is compared with every other; with more rows, that takes too long
_BLOCK = 256
Floats = npt.NDArray[np.float32]


class Embeddings:
    """Collects embeddings batch by batch; drops all of them if there are too many or their lengths differ."""

    def __init__(self) -> None:
        self.skipped = False
        self._chunks: list[tuple[npt.NDArray[np.int64], Floats]] = []

    def add(self, lists: pa.ListArray, first: int) -> None:
        """Take the embeddings of rows `first` and on."""
        images, numbers = rows.items(lists)
        if self.skipped or not len(images):
            return
        places, lengths = np.unique(images, return_counts=True)
        widths = {*lengths.tolist(), *(chunk.shape[1] for _, chunk in self._chunks)}
        self.skipped = len(widths) > 1 or first + len(lists) > MAX_ROWS
        if self.skipped:
            self._chunks.clear()
        else:
            self._chunks.append((places + first, rows.finite(numbers).reshape(len(places), -1)))

    def finish(self, count: int) -> Floats | None:
        """Give float32 [count, D], NaN where a row has none; None if there are none."""
        if not self._chunks:
            return None
        whole = np.full((count, self._chunks[0][1].shape[1]), np.nan, np.float32)
        for places, chunk in self._chunks:
            whole[places] = chunk
        return whole


def nearest(
    embeddings: Floats, count: int = 5, on_progress: Callable[[int, int], None] | None = None
) -> tuple[npt.NDArray[np.int32], Floats]:
    """Find the nearest rows of every row, itself left out, by their embeddings, float32 [R, D].

    Rows that hold a NaN or only zeros take no part. Gives int32 [R, count], most similar first, -1 where there are
    fewer, and their cosines, float32 [R, count].
    """
    index = np.full((len(embeddings), count), -1, np.int32)
    cosine = np.zeros((len(embeddings), count), np.float32)
    lengths = np.linalg.norm(embeddings, axis=1)
    taken = np.flatnonzero(lengths > 0)
    unit = embeddings[taken] / lengths[taken, None]
    width = min(count, len(taken) - 1)
    for start in range(0, len(taken) if width > 0 else 0, _BLOCK):
        own = np.arange(start, min(start + _BLOCK, len(taken)))
        similar = unit[own] @ unit.T
        similar[np.arange(len(own)), own] = -np.inf
        best = np.argpartition(-similar, width - 1, axis=1)[:, :width]
        values = np.take_along_axis(similar, best, axis=1)
        order = np.lexsort((best, -values), axis=1)
        index[taken[own], :width] = taken[np.take_along_axis(best, order, axis=1)]
        cosine[taken[own], :width] = np.take_along_axis(values, order, axis=1)
        if on_progress:
            on_progress(int(own[-1]) + 1, len(taken))
    return index, cosine
