"""All levels in order: concurrencies, rates, and the search for the highest rate that holds the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlclip.json_lines import Line
from mlclip_bench.load.define import Closed, Load, LoadError, Open
from mlclip_bench.load.derive import Row, capacity, open_rows, rows_of
from mlclip_bench.load.search import next_rate
from mlclip_bench.load.store import Store, key_of

AUTO = (0.25, 0.5, 0.75, 0.9)
"""Shares of the closed loop's highest throughput that `--rates auto` tries."""
_START, _FIRST = 0.7, 8.0

Measure = Callable[[Load, str], Line]
"""Measures a level for a purpose, `sweep` or `search`."""


@dataclass(frozen=True)
class Plan:
    """Which levels are wanted.

    Attributes:
        concurrencies: of the closed loop.
        rates: of the open loop, in images a second; None: chosen by what the closed loop reached.
        target: seconds that 99 of 100 answers may take, whose highest rate is searched; None: no search.
    """

    concurrencies: tuple[int, ...]
    rates: tuple[float, ...] | None
    target: float | None


def run_plan(plan: Plan, store: Store, measure: Measure, on_row: Callable[[Row], None]) -> None:
    """Measure what the plan wants and the store lacks; each level is kept as soon as it is measured.

    Args:
        plan: the levels.
        store: where lines go.
        measure: measures one.
        on_row: told of each new level.

    Raises:
        LoadError: a level of the closed loop got no answer at all, so that more load is of no use.
    """

    def missing(load: Load, purpose: str) -> None:
        key = ("closed", load.concurrency) if isinstance(load, Closed) else ("open", load.rate)
        if key in map(key_of, store.lines()):
            return
        store.append(measure(load, purpose))
        row = next(row for row in _rows(store) if row.load == load)
        on_row(row)
        if isinstance(load, Closed) and not row.total.answered:
            reason = "; ".join(f"{kind}: {message}" for kind, message in row.messages.items())
            raise LoadError(f"no answer at {load}: {reason or 'the server is silent; raise --timeout'}")

    for concurrency in plan.concurrencies:
        missing(Closed(concurrency), "sweep")
    most = capacity(_rows(store))
    for rate in plan.rates if plan.rates is not None else _auto(most):
        missing(Open(rate), "sweep")
    if plan.target is not None:
        start = most * _START if most else _FIRST
        while (rate_to_try := next_rate(open_rows(_rows(store)), plan.target, start)) is not None:
            missing(Open(rate_to_try), "search")


def _auto(most: float | None) -> Sequence[float]:
    return [float(f"{share * most:.3g}") for share in AUTO] if most else []


def _rows(store: Store) -> list[Row]:
    return rows_of(store.lines())
