"""Near-duplicates: which image stays in place of which.

Of images that are duplicates of each other one stays. Where A is similar to B and B to C, but A is not to C, chains
would drop two of three, and among many images collapse whole series into one. Here an image is dropped only for one
that stays and that it is itself similar to.
"""

import numpy as np
import numpy.typing as npt

from mlclip.data.dataset import Progress, quiet
from mlclip.data.similarity import BLOCK, Embeddings, Index, Vector, unit


def near_duplicates(
    rows: Embeddings, threshold: float, priority: npt.ArrayLike, block: int = BLOCK, on_progress: Progress = quiet
) -> tuple[Index, Vector]:
    """Choose which images stay: in order of priority, each that is not similar to one that stays already.

    Priority is [R], highest first; of equals, the first row. `block` rows are compared at a time. Gives for each row
    the row that stays in its place, int64 [R], and their cosine similarity, float64 [R]; its own and 1 where it stays.
    """
    partner, similarity = np.arange(len(rows)), np.ones(len(rows))
    order = np.lexsort((partner, -np.asarray(priority, dtype=np.float64)))
    kept = order[:0]
    for done, start in enumerate(range(0, len(order), block), start=1):
        members = order[start : start + block]
        ours = unit(rows[members])
        for first in range(0, len(kept), block):
            stays = kept[first : first + block]
            close = ours @ unit(rows[stays]).T
            which = (close >= threshold).argmax(axis=1)
            found = close[np.arange(len(members)), which]
            gone = found >= threshold
            partner[members[gone]], similarity[members[gone]] = stays[which[gone]], found[gone]
            members, ours = members[~gone], ours[~gone]
        within = ours @ ours.T
        free = np.ones(len(members), dtype=np.bool_)
        for n in range(len(members)):
            if free[n]:
                gone = (within[n] >= threshold) & free
                gone[: n + 1] = False
                free &= ~gone
                partner[members[gone]], similarity[members[gone]] = members[n], within[n, gone]
        kept = np.concatenate([kept, members[free]])
        on_progress(done, -(-len(order) // block))
    return partner, similarity
