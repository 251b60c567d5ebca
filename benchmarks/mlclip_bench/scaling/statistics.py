"""From rounds to figures: latency with its interval, growth with N, break-even.

A round's figure is the median of its calls. Rounds are the unit of all intervals: calls of one round share what the
machine did meanwhile, so they would promise too much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


def latency(medians: Sequence[float]) -> Estimate:
    """Geometric mean over rounds, with Student's interval on logarithms; it is infinitely wide for one round."""
    logs = np.log(medians)
    if len(logs) < 2:
        return Estimate(float(np.exp(logs.mean())), 0.0, math.inf)
    half = stats.t.ppf((1 + LEVEL) / 2, len(logs) - 1) * stats.sem(logs)
    return Estimate(*(float(value) for value in np.exp([logs.mean(), logs.mean() - half, logs.mean() + half])))


def relative_half_width(medians: Sequence[float]) -> float:
    """Half of the interval of `latency` as a share of the latency."""
    found = latency(medians)
    return (found.high - found.low) / 2 / found.value


def exponent(rounds: Mapping[int, Sequence[float]], seed: int = 0) -> Estimate:
    """Growth over N: the slope of log latency over log N, by least squares; its interval from resampled rounds.

    Args:
        rounds: medians of the rounds, seconds, by N; two N at least.
        seed: of the resampling.
    """
    sizes = np.log(sorted(rounds))
    logs = [np.log(rounds[n]) for n in sorted(rounds)]
    weights = (sizes - sizes.mean()) / ((sizes - sizes.mean()) ** 2).sum()
    fitted = float(weights @ [part.mean() for part in logs])
    slopes = _resampled_means(logs, seed) @ weights
    low, high = np.quantile(slopes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(fitted, float(low), float(high))


def ratio(dividend: Sequence[float], divisor: Sequence[float]) -> Estimate:
    """How many times as long one point takes as another, with Welch's interval on logarithms."""
    above, below = np.log(dividend), np.log(divisor)
    mean = above.mean() - below.mean()
    if min(len(above), len(below)) < 2:
        return Estimate(float(np.exp(mean)), 0.0, math.inf)
    parts = [part.var(ddof=1) / len(part) for part in (above, below)]
    variance = sum(parts)
    if variance == 0:
        return Estimate(*[float(np.exp(mean))] * 3)
    freedom = variance**2 / sum(v**2 / (len(part) - 1) for v, part in zip(parts, (above, below), strict=True))
    half = stats.t.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(variance)
    return Estimate(*(float(value) for value in np.exp([mean, mean - half, mean + half])))


@dataclass(frozen=True)
class BreakEven:
    """The N at which a head costs as much as the encoder.

    Attributes:
        classes: N; None where the head's cost does not grow towards the encoder's.
        extrapolated: N lies outside of what was measured.
    """

    classes: float | None
    extrapolated: bool


def break_even(latencies: Mapping[int, float], encoder: float) -> BreakEven:
    """Where latency over N, straight lines between logarithms, meets the encoder's.

    Beyond the largest N the line through the two largest goes on; below the smallest nothing is said.

    Args:
        latencies: of a head, by N; two at least.
        encoder: latency of the encoder, in the same unit.
    """
    sizes = sorted(latencies)
    if latencies[sizes[0]] >= encoder:
        return BreakEven(float(sizes[0]), extrapolated=True)
    for lower, upper in zip(sizes, sizes[1:], strict=False):
        if latencies[upper] >= encoder:
            return BreakEven(_meeting(latencies, lower, upper, encoder), extrapolated=False)
    lower, upper = sizes[-2:]
    if latencies[upper] <= latencies[lower] * 1.05:
        return BreakEven(None, extrapolated=True)
    return BreakEven(_meeting(latencies, lower, upper, encoder), extrapolated=True)


def _meeting(latencies: Mapping[int, float], lower: int, upper: int, encoder: float) -> float:
    slope = math.log(latencies[upper] / latencies[lower]) / math.log(upper / lower)
    meeting: float = upper * (encoder / latencies[upper]) ** (1 / slope)
    return meeting


def _resampled_means(logs: Sequence[Floats], seed: int) -> Floats:
    """Means of resampled rounds: [RESAMPLES, len(logs)].

    Of S rounds S - 1 are drawn, so that the variance of the mean comes out unbiased (Rao and Wu 1988,
    https://doi.org/10.1080/01621459.1988.10478591); a single round stays as it is.
    """
    generator = np.random.default_rng(seed)
    means = [part[generator.integers(0, len(part), (RESAMPLES, max(len(part) - 1, 1)))].mean(axis=1) for part in logs]
    drawn: Floats = np.stack(means, axis=1)
    return drawn
