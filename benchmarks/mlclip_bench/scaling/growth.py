"""From rounds to growth over N and to break-even.

A round's value is the median of its calls. Rounds are the unit of all intervals: calls of one round share what the
machine did meanwhile, so intervals over calls would be too narrow.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlclip_bench.kit.intervals import Estimate, percentiles, resampled_means


def exponent(rounds: Mapping[int, Sequence[float]], seed: int = 0) -> Estimate:
    """Growth over N: the slope of log latency over log N, by least squares; its interval from resampled rounds.

    `rounds` holds the medians of the rounds in seconds, by N; at least two N.
    """
    sizes = np.log(sorted(rounds))
    logs = [np.log(rounds[n]) for n in sorted(rounds)]
    weights = (sizes - sizes.mean()) / ((sizes - sizes.mean()) ** 2).sum()
    fitted = float(weights @ [part.mean() for part in logs])
    return Estimate(fitted, *percentiles(resampled_means(logs, seed) @ weights))


@dataclass(frozen=True)
class BreakEven:
    """The N at which a head costs as much as the encoder."""

    classes: float | None  # N; None where the head's cost does not grow towards the encoder's
    extrapolated: bool  # N lies outside of what was measured


def break_even(latencies: Mapping[int, float], encoder: float) -> BreakEven:
    """Where a head's latency over N (at least two), with straight lines between logarithms, meets the encoder's.

    Beyond the largest N, the line through the two largest continues; below the smallest, it is the smallest N.
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
