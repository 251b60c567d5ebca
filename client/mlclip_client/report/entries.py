"""Entries: an image, a class and a score, in columns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

SCALE = 65535
"""Scores are stored as whole numbers from 0 to this."""
Ints = npt.NDArray[np.int64]


@dataclass
class Entries:
    """Entries under way: chunks of image, class (or position in `all_scores`) and score."""

    chunks: list[tuple[Ints, Ints, Ints]] = field(default_factory=list)
    count: int = 0

    def add(self, images: Ints, classes: Ints, scores: Ints) -> None:
        """Add some."""
        self.chunks.append((images, classes, scores))
        self.count += len(images)

    def joined(self) -> tuple[Ints, Ints, Ints]:
        """Give all of them as three arrays, and keep them as one chunk."""
        empty = np.zeros(0, np.int64)
        columns = zip(*self.chunks, strict=True) if self.chunks else [(empty,)] * 3
        images, classes, scores = (np.concatenate(column) for column in columns)
        self.chunks = [(images, classes, scores)]
        return images, classes, scores

    def keep_highest(self, count: int) -> int:
        """Drop the lowest scores so that at most `count` entries are left, and give the lowest score that stays."""
        images, classes, scores = self.joined()
        at_least = np.bincount(scores, minlength=SCALE + 2)[::-1].cumsum()[::-1]
        floor = int(np.argmax(at_least <= count))
        keep = scores >= floor
        self.chunks, self.count = [(images[keep], classes[keep], scores[keep])], int(keep.sum())
        return floor


def quantised(scores: npt.NDArray[np.float32]) -> Ints:
    """Give scores as whole numbers from 0 to SCALE."""
    whole: Ints = np.rint(scores.clip(0, 1).astype(np.float64) * SCALE).astype(np.int64)
    return whole
