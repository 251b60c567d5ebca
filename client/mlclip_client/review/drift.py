"""Drift: how rows differ from a head's validation images, or from other rows, each difference with an interval."""

import sys
from dataclasses import dataclass
from math import log, sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from mlclip_client.report.answers import HeadScores
from mlclip_client.report.columns import read_columns

Shares = dict[str, tuple[int, int]]  # label -> how many images have it, of how many
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Change:
    """How the share of images with a label changed or, where `what` is None, the median novelty.

    `low` and `high` are the interval of after - before; for novelty, that of the Kolmogorov-Smirnov distance of the two
    distributions. All intervals of a head hold at once in 19 of 20 cases.
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
        shares, novelty = _told(head)
        before, usual = _recorded(head) if others is None else _told(others.get(name))
        both = [what for what in shares if what in before]
        error = 0.05 / (len(both) + 1)
        z = NormalDist().inv_cdf(1 - error / 2)
        changes += [Change(name, what, *difference(before[what], shares[what], z)) for what in both]
        if novelty.size and usual.size:
            changes.append(Change(name, None, *_distance(usual, novelty, error)))
    if not changes:
        other = f"in {since} too" if since else "exported with validation figures; or compare with --since"
        raise ValueError(f"{labels}: nothing to compare: name Parquet rows whose head is {other}")
    return sorted(changes, key=lambda change: (-change.certain, -abs(change.after - change.before)))


def difference(before: tuple[int, int], after: tuple[int, int], z: float) -> tuple[float, float, float, float]:
    """Both shares, and the interval of their difference (Newcombe 1998, method 10); `z` is the normal quantile."""
    (one, low_one, high_one), (two, low_two, high_two) = _wilson(*before, z), _wilson(*after, z)
    low = two - one - sqrt((two - low_two) ** 2 + (high_one - one) ** 2)
    return one, two, low, two - one + sqrt((high_two - two) ** 2 + (one - low_one) ** 2)


def _wilson(count: int, n: int, z: float) -> tuple[float, float, float]:
    """A share with Wilson's interval."""
    middle, half = count / n + z**2 / (2 * n), z * sqrt(count * (n - count) / n**3 + z**2 / (4 * n**2))
    return count / n, (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)


def _distance(before: Floats, after: Floats, error: float) -> tuple[float, float, float, float]:
    """Both medians, and the interval of the distance (Dvoretzky, Kiefer and Wolfowitz 1956, for two samples)."""
    places = np.concatenate([before, after])
    one, two = (np.searchsorted(np.sort(sample), places, side="right") / sample.size for sample in (before, after))
    distance, margin = np.abs(one - two).max(), sqrt(log(2 / error) / 2 * (1 / before.size + 1 / after.size))
    return float(np.median(before)), float(np.median(after)), float(distance - margin), float(distance + margin)


def _told(head: HeadScores | None) -> tuple[Shares, Floats]:
    """How often labels were selected, and the novelty of images; empty if the file does not name the head's classes."""
    if head is None or head.known is None or not head.answered.any():
        return {}, np.zeros(0)
    counts = np.bincount(head.class_of[head.selected], minlength=len(head.classes)).tolist()
    shares = {label: (n, int(head.answered.sum())) for label, n in zip(head.classes, counts, strict=True)}
    return shares, head.novelty[~np.isnan(head.novelty)]


def _recorded(head: HeadScores) -> tuple[Shares, Floats]:
    """The same of the validation images, as the export recorded it; their novelty is spread evenly."""
    if head.known is None or head.known.validation is None:
        return {}, np.zeros(0)
    images, selected = head.known.validation["images"], head.known.validation["selected"]
    shares = {label: (n, images) for label, n in zip(head.known.labels, selected, strict=True)}
    return shares, (np.arange(images) + 0.5) / images
