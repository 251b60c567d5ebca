"""Drift: how rows differ from a head's validation images, or from other rows, each difference with an interval."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import NormalDist

import numpy as np

from mlclip_client.report.answers import HeadScores
from mlclip_client.report.columns import read_columns

NOVEL = 0.95
"""Novelty from which an image counts as novel: one in twenty of the validation images."""
Shares = dict[str | None, tuple[float, int]]  # label, or None for novelty -> images that have it, of how many


@dataclass(frozen=True)
class Change:
    """How the share of images with something changed: a label, or novelty, where `what` is None.

    `low` and `high` are the interval of after - before; all intervals of a head hold at once in 19 of 20 cases.
    """

    head: str
    what: str | None
    before: float
    after: float
    low: float
    high: float

    @property
    def certain(self) -> float:
        """The smallest size of the change that its interval allows."""
        return max(self.low, -self.high, 0.0)


def find_changes(labels: Path, since: Path | None = None) -> list[Change]:
    """Compare the rows of a file with the validation images of their heads or, with `since`, with other rows.

    The largest certain changes come first. Raises ValueError if a file cannot be read or says too little.
    """
    others = None if since is None else read_columns(since, sys.maxsize).heads
    changes = []
    for name, head in read_columns(labels, sys.maxsize).heads.items():
        after, before = _shares(head), _recorded(head) if others is None else _shares(others.get(name))
        both = [what for what in after if what in before]
        z = NormalDist().inv_cdf(1 - 0.025 / max(1, len(both)))
        changes += [Change(name, what, *difference(before[what], after[what], z)) for what in both]
    if not changes:
        other = f"in {since} too" if since else "exported with validation figures; or compare with --since"
        raise ValueError(f"{labels}: nothing to compare: name Parquet rows whose head is {other}")
    return sorted(changes, key=lambda change: (-change.certain, -abs(change.after - change.before)))


def difference(before: tuple[float, int], after: tuple[float, int], z: float) -> tuple[float, float, float, float]:
    """Both shares, and the interval of their difference (Newcombe 1998, method 10); `z` is the normal quantile."""
    (one, low_one, high_one), (two, low_two, high_two) = _wilson(*before, z), _wilson(*after, z)
    low = two - one - sqrt((two - low_two) ** 2 + (high_one - one) ** 2)
    return one, two, low, two - one + sqrt((high_two - two) ** 2 + (one - low_one) ** 2)


def _wilson(count: float, n: int, z: float) -> tuple[float, float, float]:
    """A share with Wilson's interval."""
    middle, half = count / n + z**2 / (2 * n), z * sqrt(count * (n - count) / n**3 + z**2 / (4 * n**2))
    return count / n, (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)


def _shares(head: HeadScores | None) -> Shares:
    """How often labels were selected and images are novel; nothing if the file does not name the head's classes."""
    if head is None or head.known is None or not head.answered.any():
        return {}
    counts = np.bincount(head.class_of[head.selected], minlength=len(head.classes)).tolist()
    shares: Shares = {label: (n, int(head.answered.sum())) for label, n in zip(head.classes, counts, strict=True)}
    novelty = head.novelty[~np.isnan(head.novelty)]
    return shares | ({None: (int((novelty >= NOVEL).sum()), novelty.size)} if novelty.size else {})


def _recorded(head: HeadScores) -> Shares:
    """The same of the validation images, as the export recorded it."""
    if head.known is None or head.known.validation is None:
        return {}
    images, selected = head.known.validation["images"], head.known.validation["selected"]
    labels: Shares = {label: (n, images) for label, n in zip(head.known.labels, selected, strict=True)}
    return labels | {None: ((1 - NOVEL) * images, images)}
