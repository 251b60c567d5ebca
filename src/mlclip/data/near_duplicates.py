"""Near-duplicates: which image stays in place of which.

Of images that are duplicates of each other one stays. Where A is similar to B and B to C, but A is not to C, chains
alone would drop two of three, and among many images collapse whole series into one. Here an image is dropped only for
one that stays and that it is itself similar to; chains merely limit which images must be compared.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlclip.data.dataset import Progress, quiet
from mlclip.data.similarity import BLOCK, Embeddings, Index, Vector, clusters, unit


def near_duplicates(
    rows: Embeddings, threshold: float, priority: npt.ArrayLike, block: int = BLOCK, on_progress: Progress = quiet
) -> tuple[Index, Vector]:
    """Choose which images stay: in order of priority, each that is not similar to one that stays already.

    Priority is [R], highest first; of equals, the first row. `block` rows are compared at a time. Gives for each row
    the row that stays in its place, int64 [R], and their cosine similarity, float64 [R]; its own and 1 where it stays.
    """
    partner = np.arange(len(rows))
    similarity = np.ones(len(rows))
    rank = np.lexsort((partner, -np.asarray(priority, dtype=np.float64)))
    numbers = clusters(rows, threshold, block, on_progress)
    by_set = rank[np.argsort(numbers[rank], kind="stable")]
    borders = np.flatnonzero(np.diff(numbers[by_set])) + 1
    for members in np.split(by_set, borders):
        remaining = members if len(members) > 1 else members[:0]
        while len(remaining):
            remaining = _settle(rows, remaining, threshold, block, partner, similarity)
    return partner, similarity


def _settle(
    rows: Embeddings, members: Index, threshold: float, block: int, partner: Index, similarity: Vector
) -> Index:
    """Decide on the first `block` members and on all that are dropped for one of them; returns the rest, in order."""
    first, rest = members[:block], members[block:]
    ours = unit(rows[first])
    within = ours @ ours.T
    stays = np.ones(len(first), dtype=np.bool_)
    for n in range(len(first)):
        if stays[n]:
            gone = (within[n] >= threshold) & stays
            gone[: n + 1] = False
            stays &= ~gone
            partner[first[gone]], similarity[first[gone]] = first[n], within[n, gone]
    kept, kept_rows = first[stays], ours[stays]
    left = [rest[:0]]
    for start in range(0, len(rest), block):
        part = rest[start : start + block]
        close = kept_rows @ unit(rows[part]).T
        which = (close >= threshold).argmax(axis=0)
        found = close[which, np.arange(len(part))]
        gone = found >= threshold
        partner[part[gone]], similarity[part[gone]] = kept[which[gone]], found[gone]
        left.append(part[~gone])
    return np.concatenate(left)
