"""Windows of a measurement, the latencies in each, and when three of them count as stable.

The rule is perf_analyzer's: of the last three windows, the largest throughput and the largest mean latency are at
most 10 % above the smallest (https://github.com/triton-inference-server/perf_analyzer, docs/cli.md,
`--stability-percentage`). An answer counts in the window in which it arrives, whenever its image was sent.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TOLERANCE = 0.1
CONSECUTIVE = 3
_STEP = math.log(1.01)


class Histogram(Counter[int]):
    """Latencies in bins that grow by 1 %, so that every percentile is known to half a percent.

    Bin b stands for 1.01**b microseconds.
    """

    def add(self, seconds: float) -> None:
        """Count a latency."""
        self[round(math.log(max(seconds * 1e6, 1.0)) / _STEP)] += 1

    def percentile(self, percent: float) -> float | None:
        """Latency in seconds at perf_analyzer's rank, p / 100 (n - 1) rounded; None without latencies."""
        rank = int(percent / 100 * (self.total() - 1) + 0.5)
        for number in sorted(self):
            rank -= self[number]
            if rank < 0:
                return math.exp(number * _STEP) / 1e6
        return None


@dataclass(frozen=True)
class Window:
    """What came back within one window."""

    seconds: float  # its length
    latency_sum: float = 0.0  # of its answers, in seconds; `histogram` has the same latencies
    histogram: Histogram = field(default_factory=Histogram, compare=False)
    errors: Mapping[str, int] = field(default_factory=dict)  # kind -> number of requests that ended with it
    lag_sum: float = 0.0  # lateness of the generator in seconds, summed over its `wakes`
    wakes: int = 0

    @property
    def answered(self) -> int:
        """Number of answers."""
        return self.histogram.total()

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds

    @property
    def mean_latency(self) -> float | None:
        """In seconds; None without answers."""
        return self.latency_sum / self.answered if self.answered else None

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        times = {name: round(getattr(self, name), 6) for name in ("seconds", "latency_sum", "lag_sum")}
        histogram = {str(number): count for number, count in sorted(self.histogram.items())}
        return times | {
            "answered": self.answered, "histogram": histogram, "errors": dict(self.errors), "wakes": self.wakes
        }  # fmt: skip

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Window":
        """The reverse of `to_dict`."""
        histogram = Histogram({int(number): count for number, count in values["histogram"].items()})
        plain = {name: values[name] for name in ("seconds", "latency_sum", "errors", "lag_sum", "wakes")}
        return Window(**plain, histogram=histogram)


def merge(windows: Sequence[Window]) -> Window:
    """Several windows as one."""
    histogram, errors = Histogram(), Counter[str]()
    for window in windows:
        histogram.update(window.histogram)
        errors.update(window.errors)
    return Window(
        seconds=sum(window.seconds for window in windows),
        latency_sum=sum(window.latency_sum for window in windows),
        histogram=histogram,
        errors=dict(errors),
        lag_sum=sum(window.lag_sum for window in windows),
        wakes=sum(window.wakes for window in windows),
    )


def is_stable(windows: Sequence[Window]) -> bool:
    """Whether the last three windows agree in throughput and in mean latency."""
    found = spreads(windows)
    return found is not None and max(found) <= 1 + TOLERANCE


def spreads(windows: Sequence[Window]) -> tuple[float, float] | None:
    """Largest over smallest throughput and mean latency of the last three windows; None if one has no answers."""
    last = windows[-CONSECUTIVE:]
    latencies = [window.mean_latency for window in last]
    known = [latency for latency in latencies if latency is not None]
    if len(known) < CONSECUTIVE:
        return None
    throughputs = [window.throughput for window in last]
    return max(throughputs) / min(throughputs), max(known) / min(known)


def holds(window: Window, rate: float, target: float) -> bool:
    """Whether a window of the open loop holds a target: in time, without errors, and keeping up.

    99 of 100 answers take at most `target` seconds. Answers may be 10 % fewer than arrive, `rate` per second, as some
    are still under way at the end.
    """
    high = window.histogram.percentile(99)
    keeps_up = window.throughput * (1 + TOLERANCE) >= rate
    return high is not None and high <= target and keeps_up and not window.errors


def is_settled(windows: Sequence[Window], rate: float | None = None, target: float | None = None) -> bool:
    """Whether more windows would change nothing.

    That is the case when the last three are stable, when all three hold the target of a rate (None in the closed loop)
    or none does, or when only errors come back.
    """
    if windows and not windows[-1].answered and windows[-1].errors:
        return True
    last = windows[-CONSECUTIVE:]
    if len(last) == CONSECUTIVE and rate is not None and target is not None:
        return len({holds(window, rate, target) for window in last}) == 1
    return is_stable(windows)
