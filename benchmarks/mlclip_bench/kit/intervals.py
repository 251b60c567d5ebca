"""Estimates with 95 % intervals, from repeated measurements."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, whose end is infinite where a single measurement allows none."""

    value: float
    low: float
    high: float

    @property
    def relative_half_width(self) -> float:
        """Half of the interval as a share of the value."""
        return (self.high - self.low) / 2 / self.value

    def scaled(self, factor: float) -> "Estimate":
        """The same in another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)

    def meets(self, other: "Estimate") -> bool:
        """Whether the two intervals overlap."""
        return max(self.low, other.low) <= min(self.high, other.high)

    def to_dict(self) -> dict[str, float | None]:
        """Plain JSON values; an infinite interval becomes None."""
        known = math.isfinite(self.high)
        return {"value": self.value, "low": self.low if known else None, "high": self.high if known else None}

    @classmethod
    def from_dict(cls, values: dict[str, float | None]) -> "Estimate":
        """Read what `to_dict` wrote."""
        value, low, high = (values[name] for name in ("value", "low", "high"))
        assert value is not None
        return cls(value, 0.0 if low is None else low, math.inf if high is None else high)


def geometric_mean(values: Sequence[float]) -> Estimate:
    """Geometric mean of positive values, with Student's interval on logarithms."""
    logs = np.log(values)
    if len(logs) < 2:
        return Estimate(float(np.exp(logs.mean())), 0.0, math.inf)
    return _of_logs(logs.mean(), stats.t.ppf((1 + LEVEL) / 2, len(logs) - 1) * stats.sem(logs))


def ratio(dividend: Sequence[float], divisor: Sequence[float]) -> Estimate:
    """Ratio of two geometric means, with Welch's interval on logarithms."""
    above, below = np.log(dividend), np.log(divisor)
    mean = above.mean() - below.mean()
    if min(len(above), len(below)) < 2:
        return Estimate(float(np.exp(mean)), 0.0, math.inf)
    parts = [part.var(ddof=1) / len(part) for part in (above, below)]
    variance = sum(parts)
    if variance == 0:
        return _of_logs(mean, 0.0)
    freedom = variance**2 / sum(v**2 / (len(part) - 1) for v, part in zip(parts, (above, below), strict=True))
    return _of_logs(mean, stats.t.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(variance))


def median(values: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> Estimate:
    """Median with its bootstrap interval: values are drawn again with replacement."""
    middle = float(np.median(values))
    if len(values) < 2:
        return Estimate(middle, -math.inf, math.inf)
    drawn = np.random.default_rng(seed).choice(np.asarray(values, dtype=np.float64), size=(resamples, len(values)))
    return Estimate(middle, *percentiles(np.median(drawn, axis=1)))


def percentiles(samples: Floats) -> tuple[float, float]:
    """The ends of a bootstrap interval."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def resampled_means(groups: Sequence[Floats], seed: int) -> Floats:
    """Means of groups of values that were drawn again: [RESAMPLES, len(groups)].

    Of S values S - 1 are drawn, so that the variance of the mean comes out unbiased (Rao and Wu 1988,
    https://doi.org/10.1080/01621459.1988.10478591); a single value stays as it is.
    """
    generator = np.random.default_rng(seed)
    means = [part[generator.integers(0, len(part), (RESAMPLES, max(len(part) - 1, 1)))].mean(axis=1) for part in groups]
    return np.stack(means, axis=1)


def _of_logs(mean: float, half: float) -> Estimate:
    return Estimate(*(float(value) for value in np.exp([mean, mean - half, mean + half])))
