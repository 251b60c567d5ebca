"""Entries: an image, something it has (a class, a reference), and how much, in columns."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

SCALE = 65535  # scores are stored as whole numbers from 0 to this
Ints = npt.NDArray[np.int64]


class Entries:
    """Collects entries in chunks of image, class and score."""

    def __init__(self) -> None:
        self.count = 0
        self._chunks: list[tuple[Ints, Ints, Ints]] = []

    def add(self, images: Ints, classes: Ints, scores: Ints) -> None:
        """Add some."""
        self._chunks.append((images, classes, scores))
        self.count += len(images)

    def joined(self) -> tuple[Ints, Ints, Ints]:
        """Give images, classes and scores of all entries."""
        empty = np.zeros(0, np.int64)
        images, classes, scores = map(np.concatenate, zip((empty, empty, empty), *self._chunks, strict=True))
        return images, classes, scores

    def keep_highest(self, count: int) -> int:
        """Drop the lowest scores so that at most `count` entries are left, and give the lowest score that stays."""
        images, classes, scores = self.joined()
        at_least = np.bincount(scores, minlength=SCALE + 2)[::-1].cumsum()[::-1]
        floor = int(np.argmax(at_least <= count))
        keep = scores >= floor
        self._chunks, self.count = [(images[keep], classes[keep], scores[keep])], int(keep.sum())
        return floor


def quantised(scores: npt.NDArray[np.float32]) -> Ints:
    """Give scores as whole numbers from 0 to SCALE."""
    whole: Ints = np.rint(scores.clip(0, 1).astype(np.float64) * SCALE).astype(np.int64)
    return whole


def numbered(names: pa.Array, known: dict[str, int]) -> Ints:
    """Give the number of each name; new names get the next numbers in `known`."""
    coded = pc.fill_null(names, "").dictionary_encode()
    numbers = [known.setdefault(name, len(known)) for name in coded.dictionary.to_pylist()]
    found: Ints = np.array(numbers, np.int64)[coded.indices.to_numpy(zero_copy_only=False)]
    return found


def ranked(images: Ints, values: npt.NDArray[np.generic], count: int) -> tuple[Ints, Ints]:
    """Order entries by image, then by value, highest first; equal ones keep their order.

    Gives int64 [count + 1], where each image's entries begin, and the order, int64 [entries].
    """
    starts = np.concatenate([[0], np.bincount(images, minlength=count).cumsum()]).astype(np.int64)
    return starts, np.lexsort((-values, images))
