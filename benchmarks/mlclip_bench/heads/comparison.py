"""Which methods can be told apart: paired bootstrap over test images, and over seeds.

A resample draws test images with replacement, the same ones for every method, so what makes an image hard for all
methods cancels out of their differences. It also draws seeds: S - 1 of a method's S runs with replacement, the same
positions for all methods; with S - 1 instead of S, the variance of the mean over seeds comes out unbiased (Rao and Wu
1988, https://doi.org/10.1080/01621459.1988.10478591). A method with one run contributes no variance of training.

The intervals of the differences hold for all pairs of methods at once (the largest standardised deviation of any pair
sets their width), so the best method may be chosen on the same values: no pair is picked for its luck.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mlclip.thresholds import select
from mlclip_bench.heads.results import TestScores
from mlclip_bench.kit.intervals import LEVEL, RESAMPLES, Floats

Weights = npt.NDArray[np.float32]
Targets = npt.NDArray[np.uint8]

_BLOCK = 1024


@dataclass(frozen=True)
class Comparison:
    """One metric of several methods, with intervals."""

    methods: tuple[str, ...]  # M names
    estimates: Floats  # [M], means over seeds
    low: Floats  # [M], with `high` each method's own interval
    high: Floats
    # [M, M], with `difference_high` the intervals of `estimates[i] - estimates[j]` for all pairs at once
    difference_low: Floats
    difference_high: Floats

    @property
    def best(self) -> int:
        """Position of the highest estimate."""
        return int(np.argmax(self.estimates))

    @property
    def leading(self) -> tuple[str, ...]:
        """The best method and all that cannot be told apart from it, highest first."""
        order = np.argsort(-self.estimates, kind="stable")
        return tuple(self.methods[m] for m in order if not self.apart(self.best, int(m)))

    def interval(self, method: str) -> tuple[float, float] | None:
        """A method's own interval; None for a method that is not compared."""
        if method not in self.methods:
            return None
        m = self.methods.index(method)
        return float(self.low[m]), float(self.high[m])

    def apart(self, one: int, other: int) -> bool:
        """Whether the interval of their difference excludes 0."""
        return bool(self.difference_low[one, other] > 0 or self.difference_high[one, other] < 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        arrays = {name: np.round(getattr(self, name), 6).tolist() for name in _ARRAYS}
        return {"methods": list(self.methods), **arrays}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Comparison":
        """Read what `to_dict` wrote."""
        return cls(tuple(plain["methods"]), **{name: np.array(plain[name], dtype=np.float64) for name in _ARRAYS})


_ARRAYS = ("estimates", "low", "high", "difference_low", "difference_high")
Metric = Callable[[Targets, TestScores, Weights], Floats]


def compare_methods(
    targets: Targets,
    runs: Mapping[str, Sequence[TestScores]],
    metric: Metric,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare methods, each with its runs, one per seed, by one of the metrics of `compared_by`; targets are [R, N].

    The ends of an interval need a thousand resamples or more.
    """
    rng = np.random.default_rng(seed)
    images = len(targets)
    weights = np.ones((1 + resamples, images), dtype=np.float32)  # the first row is the sample itself
    for row in weights[1:]:
        row[:] = np.bincount(rng.integers(images, size=images), minlength=images)
    picks: dict[int, npt.NDArray[np.int64]] = {}
    samples, estimates = [], []
    for outcomes in runs.values():
        values = np.stack([metric(targets, outcome, weights) for outcome in outcomes])  # [S, 1 + B]
        seeds = len(outcomes)
        if seeds not in picks:
            picks[seeds] = rng.integers(seeds, size=(max(1, seeds - 1), resamples))
        estimates.append(values[:, 0].mean())
        samples.append(np.take_along_axis(values[:, 1:], picks[seeds], axis=0).mean(axis=0))
    return intervals(tuple(runs), np.array(estimates), np.stack(samples))


def intervals(methods: tuple[str, ...], estimates: Floats, samples: Floats, level: float = LEVEL) -> Comparison:
    """Symmetric intervals around the estimates [M] of M methods, of each method and of all differences at once.

    `samples`, [M, B], are the metric in each resample; `level` is the share of repetitions of the whole measurement in
    which the intervals hold.
    """
    own = np.quantile(np.abs(samples - samples.mean(axis=1, keepdims=True)), level, axis=1)
    one, other = np.triu_indices(len(methods), k=1)
    gaps = samples[one] - samples[other]
    gaps = gaps - gaps.mean(axis=1, keepdims=True)
    spread = gaps.std(axis=1)
    moving = spread > 1e-12
    width = np.zeros((len(methods), len(methods)))
    if moving.any():
        largest = np.abs(gaps[moving] / spread[moving, None]).max(axis=0)
        width[one, other] = width[other, one] = np.quantile(largest, level) * spread
    difference = estimates[:, None] - estimates[None]
    return Comparison(methods, estimates, estimates - own, estimates + own, difference - width, difference + width)


def mean_average_precision(targets: Targets, outcome: TestScores, weights: Weights) -> Floats:
    """Macro mAP [B] under weights, equal to scikit-learn's average precision with `sample_weight` per class.

    The precision at a true image is the weight of true images scored at least as high, over the weight of all images
    scored at least as high; both are one product of matrices for all resamples. Classes without a true image are left
    out, resample by resample. Targets are 0 or 1, [R, N], weights whole numbers, [B, R], below 2^24 in sum, so that
    float32 counts exactly.
    """
    truth, by_image = targets.astype(np.bool_), np.ascontiguousarray(weights.T)
    precise = np.zeros((targets.shape[1], len(weights)))
    classes, rows = np.nonzero(truth.T)
    for start in range(0, len(rows), _BLOCK):
        of, row = classes[start : start + _BLOCK], rows[start : start + _BLOCK]
        above = outcome.scores[:, of] >= outcome.scores[row, of]  # [R, P]
        reached = above.T.astype(np.float32) @ by_image
        hits = (above & truth[:, of]).T.astype(np.float32) @ by_image
        np.add.at(precise, of, by_image[row] * hits / np.maximum(reached, 1))
    true = truth.T.astype(np.float32) @ by_image
    mean: Floats = (precise / np.maximum(true, 1)).sum(axis=0) / np.maximum((true > 0).sum(axis=0), 1)
    return mean


def f_micro(targets: Targets, outcome: TestScores, weights: Weights, beta: float = 1.0) -> Floats:
    """Micro F-beta at the run's thresholds under weights; arguments and result as in `mean_average_precision`."""
    selected, truth = select(outcome.scores, outcome.thresholds), targets.astype(np.bool_)
    hits = (1 + beta**2) * (selected & truth).sum(axis=1)
    either = selected.sum(axis=1) + beta**2 * truth.sum(axis=1)
    wide = weights.astype(np.float64)
    ratio: Floats = (wide @ hits) / np.maximum(wide @ either, 1)
    return ratio


def compared_by(study: str) -> Mapping[str, Metric]:
    """The metrics that a study's methods are compared by; `tables.COMPARED_AS` has their titles."""
    by_recipe = {"f2_micro": partial(f_micro, beta=2.0)} if study == "recipes" else {}
    return {"mean_average_precision": mean_average_precision, "f1_micro": f_micro, **by_recipe}
