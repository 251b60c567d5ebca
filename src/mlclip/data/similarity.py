"""Cosine similarities of every image with every other, a block at a time.

R images have R x R similarities, which do not fit in memory when R is large. Everything here goes through them in
blocks of at most `block` x `block` and keeps only a few numbers per image. Rows may be memory-mapped. Functions call
`on_progress` with blocks done and blocks in all.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mlclip.data.dataset import Progress, quiet

BLOCK = 2048  # rows per block: 2048 x 2048 similarities are 16 MB

Vector = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]


class Embeddings(Protocol):
    """R rows of D numbers, read when indexed: an array, or `Rows` of the features cache."""

    def __len__(self) -> int:
        """R."""

    def __getitem__(self, index: Index | slice, /) -> npt.NDArray[np.float32]:
        """Rows as float32 [len(index), D], for a slice or an array of row numbers."""


def similarity_blocks(
    rows: Embeddings, block: int = BLOCK, on_progress: Progress = quiet
) -> Iterator[tuple[int, int, npt.NDArray[np.float32]]]:
    """Go through all similarities, each computed once and given in both directions.

    Yields the first row and first column of a block, and its similarities, float32 [<= block, <= block]. An image's
    similarity to itself is -inf, so that it is not its own neighbour.
    """
    total = len(rows)
    for done, start in enumerate(range(0, total, block), start=1):
        left = unit(rows[start : start + block])
        similarities = left @ left.T
        np.fill_diagonal(similarities, -np.inf)
        yield start, start, similarities
        for other in range(start + block, total, block):
            similarities = left @ unit(rows[other : other + block]).T
            yield start, other, similarities
            yield other, start, similarities.T
        on_progress(done, -(-total // block))


def nearest(rows: Embeddings, block: int = BLOCK, on_progress: Progress = quiet) -> tuple[Index, Vector]:
    """The most similar other image of every image: its row, int64 [R], and the similarity, float64 [R].

    Of equals it is the lowest row; -1 where there is no other.
    """
    index = np.full(len(rows), -1, dtype=np.int64)
    best = np.full(len(rows), -np.inf)
    for start, other, similarities in similarity_blocks(rows, block, on_progress):
        part = slice(start, start + len(similarities))
        column = similarities.argmax(axis=1)
        found = similarities[np.arange(len(similarities)), column]
        better = found > best[part]
        best[part] = np.where(better, found, best[part])
        index[part] = np.where(better, column + other, index[part])
    return index, best


def highest_softmax(
    rows: Embeddings, temperature: float = 1.0, block: int = BLOCK, on_progress: Progress = quiet
) -> Vector:
    """Each image's highest value after a softmax over its similarities with all other images.

    A measure of how many relevant examples an image has: many give a low value (document 002, 3.1.2). `temperature` is
    a factor on the similarities; 1 is the document's. Returns float64 [R]; 0 where there is no other image.
    """
    highest = np.full(len(rows), -np.inf)
    total = np.zeros(len(rows))
    for start, _, similarities in similarity_blocks(rows, block, on_progress):
        part = slice(start, start + len(similarities))
        scaled = temperature * similarities.astype(np.float64)
        top = np.maximum(highest[part], scaled.max(axis=1))
        base = np.where(np.isfinite(top), top, 0.0)
        total[part] = total[part] * np.exp(highest[part] - base) + np.exp(scaled - base[:, None]).sum(axis=1)
        highest[part] = top
    return np.divide(1.0, total, out=np.zeros(len(rows)), where=total > 0)


def cosines(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> Vector:
    """Cosine similarity of each row with the same row of the other array, float64 [n]."""
    similarities: Vector = np.einsum("nd,nd->n", unit(left), unit(right), dtype=np.float64)
    return similarities


def unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows of length 1, float32 [n, D]; zeros stay zeros."""
    rows = np.asarray(rows, dtype=np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    normalised: npt.NDArray[np.float32] = rows / np.maximum(length, np.finfo(np.float32).tiny)
    return normalised


def connected(count: int, left: npt.ArrayLike, right: npt.ArrayLike) -> Index:
    """Number the sets of `count` things that the pairs of `left[n]` and `right[n]` connect in chains: int64 [count]."""
    from scipy.sparse import coo_array  # type: ignore[import-untyped]  # slow to load
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    ends = np.asarray(left, dtype=np.intp), np.asarray(right, dtype=np.intp)
    links = coo_array((np.ones(len(ends[0]), dtype=np.bool_), ends), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)
