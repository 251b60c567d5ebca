"""The most similar rows of every row, by cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

MAX_ROWS = 50_000
"""Every row is compared with every other; beyond this it takes too long."""
_BLOCK = 256


def nearest(
    embeddings: npt.NDArray[np.float32],
    count: int = 5,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Find the nearest rows of every row, itself left out.

    Args:
        embeddings: float32 [R, D]; rows that hold a NaN or nothing but zeros take no part.
        count: how many neighbours.
        on_progress: called with rows done and rows in all.

    Returns:
        int32 [R, count], most similar first, -1 where there are fewer, and their cosines, float32 [R, count].
    """
    index = np.full((len(embeddings), count), -1, np.int32)
    cosine = np.zeros((len(embeddings), count), np.float32)
    lengths = np.linalg.norm(embeddings, axis=1)
    rows = np.flatnonzero(lengths > 0)
    unit = embeddings[rows] / lengths[rows, None]
    width = min(count, len(rows) - 1)
    for start in range(0, len(rows) if width > 0 else 0, _BLOCK):
        own = np.arange(start, min(start + _BLOCK, len(rows)))
        similar = unit[own] @ unit.T
        similar[np.arange(len(own)), own] = -np.inf
        best = np.argpartition(-similar, width - 1, axis=1)[:, :width]
        values = np.take_along_axis(similar, best, axis=1)
        order = np.lexsort((best, -values), axis=1)
        index[rows[own], :width] = rows[np.take_along_axis(best, order, axis=1)]
        cosine[rows[own], :width] = np.take_along_axis(values, order, axis=1)
        if on_progress:
            on_progress(int(own[-1]) + 1, len(rows))
    return index, cosine
