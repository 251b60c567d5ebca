"""What every reader returns and everything else works on: items, and the classes in order."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlclip.errors import DataError

SPLITS = ("train", "val", "test")

Progress = Callable[[int, int], None]  # called with the amount of work done and the amount in all


def quiet(done: int, total: int) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class Item:
    """One image and what is known about it."""

    path: Path
    labels: tuple[str, ...] = ()  # names, each once, in the order they were given; empty means none is known
    text: str | None = None  # a title or caption
    split: str | None = None  # `train`, `val`, `test`, or None while undecided
    group: str | None = None  # images of one group (near-duplicates, one product, one patient) stay in one split
    sha256: str | None = None  # hex digest of the file's bytes, once it has been read
    where: str = ""  # place in its source, such as `labels.csv:12`, for messages

    @property
    def place(self) -> str:
        """Its name in messages: the place in its source, or its path if it has none."""
        return self.where or str(self.path)


@dataclass(frozen=True)
class Dataset:
    """Items, in the order of their source, and their classes, in the order of the columns of `targets`.

    Every method that changes something returns a new one.
    """

    items: tuple[Item, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def split_counts(self) -> dict[str, int]:
        """Images per split: train, val and test, and `none` for those that are undecided."""
        counts = Counter(item.split for item in self.items)
        found = {name: counts[name] for name in SPLITS if counts[name]}
        return found | ({"none": counts[None]} if counts[None] else {})

    @cached_property
    def digest(self) -> str:
        """16 hex digits that identify the images (by hash, or by name without one) with their labels and splits."""
        items = ((item.sha256 or item.path.name, sorted(item.labels), item.split) for item in self.items)
        return hashlib.sha256("\n".join(map(ascii, items)).encode()).hexdigest()[:16]

    def split_line(self) -> str:
        """`train 720, val 240, test 240`."""
        return ", ".join(f"{name} {images:,}" for name, images in self.split_counts.items())

    def split(self, name: str) -> "Dataset":
        """The items of one split, with all classes; raises DataError if there are none."""
        if name not in SPLITS:
            raise DataError(f"no split is called {name!r}: use one of {', '.join(SPLITS)}")
        items = tuple(item for item in self.items if item.split == name)
        if not items:
            raise DataError(f"no image is in the split {name!r}: let `mlclip data` make splits")
        return replace(self, items=items)

    def labelled(self) -> "Dataset":
        """Without the items that have no label."""
        return replace(self, items=tuple(item for item in self.items if item.labels))

    def label_counts(self) -> dict[str, int]:
        """Training images per class, in class order; all images count while there are no splits."""
        train = [item for item in self.items if item.split == "train"] or self.items
        counts = Counter(label for item in train for label in item.labels)
        return {name: counts[name] for name in self.classes}

    def top(self, n: int) -> tuple[str, ...]:
        """The n most frequent training labels (all, if there are fewer), most frequent first, ties by name."""
        if n < 1:
            raise DataError(f"the number of classes must be at least 1, not {n}")
        counts = self.label_counts()
        return tuple(sorted((name for name in counts if counts[name]), key=lambda name: (-counts[name], name))[:n])

    def frequent(self, min_count: int) -> tuple[str, ...]:
        """The classes with at least `min_count` training images, in class order."""
        return tuple(name for name, count in self.label_counts().items() if count >= min_count)

    def with_classes(self, classes: Sequence[str]) -> "Dataset":
        """Keep these classes, in this order; other labels are removed, items stay even without a label."""
        kept = frozenset(classes)
        items = (replace(item, labels=tuple(label for label in item.labels if label in kept)) for item in self.items)
        return Dataset(tuple(items), tuple(classes))

    def targets(self) -> npt.NDArray[np.uint8]:
        """The labels of R items as zeros and ones: uint8 [R, N], columns in class order.

        Raises DataError for a label that is none of the classes.
        """
        column = {name: n for n, name in enumerate(self.classes)}
        targets = np.zeros((len(self.items), len(self.classes)), dtype=np.uint8)
        for row, item in enumerate(self.items):
            try:
                targets[row, [column[label] for label in item.labels]] = 1
            except KeyError as error:
                raise DataError(f"{item.place}: {error.args[0]!r} is none of the classes") from None
        return targets
