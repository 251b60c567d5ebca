"""The highest rate that holds a latency target: which rate to try next, and between which two it lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from mlclip_bench.load.derive import Row
from mlclip_bench.load.windows import CONSECUTIVE, holds

PRECISION = 0.05
MOST_PROBES = 10
_GROW, _SHRINK, _GIVE_UP = 1.5, 0.5, 50


class Verdict(StrEnum):
    """What a level says about the target."""

    HOLDS = "holds"
    OVER = "over the target"
    ERRORS = "errors"
    BEHIND = "falls behind"


@dataclass(frozen=True)
class Bracket:
    """The rates around the highest one that holds the target."""

    low: Row | None  # the highest rate that held it; None if none did
    high: Row | None  # the lowest rate above that did not; None if all did
    contradictions: tuple[Row, ...]  # rates below `low` that did not


def judge(row: Row, target: float) -> Verdict:
    """Judge a rate of the open loop by `windows.holds` in each of the last three windows; the target is in seconds.

    Throughput and latency need not agree between windows: a latency between 40 and 60 ms holds 200.
    """
    if row.errors:
        return Verdict.ERRORS
    if len(row.last) == CONSECUTIVE and all(holds(window, row.level, target) for window in row.last):
        return Verdict.HOLDS
    highs = [window.histogram.percentile(99) for window in row.last]
    return Verdict.OVER if any(high is None or high > target for high in highs) else Verdict.BEHIND


def bracket(rows: Sequence[Row], target: float) -> Bracket:
    """Find the two rates."""
    held = [row for row in rows if judge(row, target) is Verdict.HOLDS]
    low = max(held, key=lambda row: row.level, default=None)
    failed = [row for row in rows if judge(row, target) is not Verdict.HOLDS]
    above = [row for row in failed if low is None or row.level > low.level]
    return Bracket(
        low=low,
        high=min(above, key=lambda row: row.level, default=None),
        contradictions=tuple(row for row in failed if low is not None and row.level < low.level),
    )


def next_rate(rows: Sequence[Row], target: float, start: float) -> float | None:
    """The rate to try next after all levels of the open loop so far, or None when the answer is known well enough.

    The first is `start`. Then a rate between those of the bracket; above all if all held the target, in seconds; below
    all if none did. None once the two are within 5 %, after ten probes, or if even a fiftieth of `start` fails.
    """
    if sum(row.purpose == "search" for row in rows) >= MOST_PROBES:
        return None
    found = bracket(rows, target)
    if found.low is None and found.high is None:
        return _round(start)
    if found.low is None:
        assert found.high is not None
        lower = found.high.level * _SHRINK
        return _round(lower) if lower >= start / _GIVE_UP else None
    if found.high is None:
        return _round(found.low.level * _GROW)
    low, high = found.low.level, found.high.level
    middle = _round((low + high) / 2)
    return middle if high > low * (1 + PRECISION) and low < middle < high else None


def _round(rate: float) -> float:
    return float(f"{rate:.3g}")
