"""From raw lines to values: one row per level."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlclip.json_lines import Line
from mlclip_bench.load.define import Closed, Load, Open
from mlclip_bench.load.server_counters import Counters
from mlclip_bench.load.windows import CONSECUTIVE, Window, is_stable, merge

PERCENTILES = (50, 90, 95, 99)
_LATE_SHARE, _LATE_SECONDS, _BUSY = 0.1, 0.002, 0.9


@dataclass(frozen=True)
class Row:
    """What a level showed over its last three windows."""

    load: Load
    purpose: str  # `sweep` or `search`
    stable: bool  # whether the three windows agree
    windows: int  # how many windows it took
    last: tuple[Window, ...]  # the three windows; `total` is the three merged
    total: Window
    unanswered: int  # requests under way at the end
    models: Mapping[str, Counters]  # `name/version` -> what Triton counted
    ensembles: Mapping[str, tuple[str, ...]]  # name -> steps
    resources: Mapping[str, Any]  # see `resources.cores_and_memory`
    messages: Mapping[str, str]  # kind of error -> its last message

    @property
    def level(self) -> float:
        """The concurrency or the rate."""
        return self.load.concurrency if isinstance(self.load, Closed) else self.load.rate

    @property
    def errors(self) -> int:
        """How many requests failed."""
        return sum(self.total.errors.values())

    @property
    def mean(self) -> float | None:
        """Mean latency in seconds."""
        return self.total.mean_latency

    @property
    def lag(self) -> float:
        """Mean lateness of the generator, in seconds."""
        return self.total.lag_sum / self.total.wakes if self.total.wakes else 0.0

    @property
    def generator_bound(self) -> bool:
        """Whether the generator was the bottleneck: its process filled a core, or it was late by a tenth of latency."""
        late = self.mean is not None and self.lag > max(_LATE_SECONDS, _LATE_SHARE * self.mean)
        return late or (self.resources.get("client_cores") or 0.0) >= _BUSY

    def percentile(self, percent: float) -> float | None:
        """A percentile of latency in seconds; None where no answer came."""
        return self.total.histogram.percentile(percent)

    def asked(self) -> dict[str, Counters]:
        """The ensembles that were asked."""
        return {name: counters for name, counters in self.models.items() if _model(name) in self.ensembles}

    def composing(self) -> dict[str, Counters]:
        """The models behind them, in the order of the ensembles' steps."""
        order = [step for name in self.asked() for step in self.ensembles[_model(name)]]
        found = [name for name in self.models if _model(name) in order]
        return {name: self.models[name] for name in sorted(found, key=lambda name: order.index(_model(name)))}


def rows_of(lines: Iterable[Line]) -> list[Row]:
    """Derive all rows: concurrencies, then rates, each ascending."""
    rows = [_row(line) for line in lines]
    return sorted(rows, key=lambda row: (isinstance(row.load, Open), row.level))


def closed_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows of the closed loop."""
    return [row for row in rows if isinstance(row.load, Closed)]


def open_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows of the open loop."""
    return [row for row in rows if isinstance(row.load, Open)]


def capacity(rows: Iterable[Row]) -> float | None:
    """Highest throughput of the closed loop, in images per second; None where it was not measured."""
    return max((row.total.throughput for row in closed_rows(rows) if row.total.answered), default=None)


def _row(line: Line) -> Row:
    windows = [Window.from_dict(window) for window in line["windows"]]
    closed = line["mode"] == "closed"
    return Row(
        load=Closed(int(line["level"])) if closed else Open(float(line["level"])),
        purpose=line["purpose"],
        stable=is_stable(windows),
        windows=len(windows),
        last=tuple(windows[-CONSECUTIVE:]),
        total=merge(windows[-CONSECUTIVE:]),
        unanswered=line["unanswered"],
        models={name: Counters(**counters) for name, counters in line["models"].items()},
        ensembles={name: tuple(steps) for name, steps in line["ensembles"].items()},
        resources=line["resources"],
        messages=line["messages"],
    )


def _model(name: str) -> str:
    return name.rpartition("/")[0]
