"""All levels in order: concurrencies, rates, and the search for the highest rate that holds the target."""

from collections.abc import Callable
from dataclasses import dataclass

from mlclip.json_lines import Line
from mlclip_bench.kit.store import Store
from mlclip_bench.load.define import Closed, Load, LoadError, Open
from mlclip_bench.load.derive import Row, capacity, open_rows, rows_of
from mlclip_bench.load.search import next_rate

AUTO = (0.25, 0.5, 0.75, 0.9)  # shares of the closed loop's highest throughput that `--rates auto` tries
_START, _FIRST = 0.7, 8.0

Measure = Callable[[Load, str], Line]  # measures a level for a purpose, `sweep` or `search`


Key = tuple[str, float]


def key_of(load: Load) -> Key:
    """What identifies a level: `closed` or `open`, and the concurrency or the rate."""
    return ("closed", load.concurrency) if isinstance(load, Closed) else ("open", load.rate)


class Results(Store):
    """The raw lines of one folder, one per level; of several for one level, the last counts."""

    file = "load.jsonl"

    @staticmethod
    def key(line: Line) -> Key:
        """See `key_of`."""
        return line["mode"], line["level"]

    def check(self, setting: Line) -> None:
        """Refuse to continue levels that were measured with another setting."""
        self.check_same(setting, (line["setting"] for line in self.lines()))


@dataclass(frozen=True)
class Plan:
    """Which levels to measure."""

    concurrencies: tuple[int, ...]  # of the closed loop
    # of the open loop, in images per second; None derives them from what the closed loop reached
    rates: tuple[float, ...] | None
    # seconds that 99 of 100 answers may take; the highest rate that holds it is searched. None: no search.
    target: float | None


def run_plan(plan: Plan, results: Results, measure: Measure, on_row: Callable[[Row], None]) -> None:
    """Measure the levels of a plan that have no line yet; each is written at once and given to `on_row`.

    Raises LoadError if a level of the closed loop got no answer at all, so that more load is pointless.
    """

    def missing(load: Load, purpose: str) -> None:
        if key_of(load) in map(results.key, results.lines()):
            return
        results.append(measure(load, purpose))
        row = next(row for row in _rows(results) if row.load == load)
        on_row(row)
        if isinstance(load, Closed) and not row.total.answered:
            reason = "; ".join(f"{kind}: {message}" for kind, message in row.messages.items())
            raise LoadError(f"no answer at {load}: {reason or 'the server is silent; raise --timeout'}")

    for concurrency in plan.concurrencies:
        missing(Closed(concurrency), "sweep")
    most = capacity(_rows(results))
    automatic = [float(f"{share * most:.3g}") for share in AUTO] if most else []
    for rate in automatic if plan.rates is None else plan.rates:
        missing(Open(rate), "sweep")
    if plan.target is not None:
        start = most * _START if most else _FIRST
        while (rate_to_try := next_rate(open_rows(_rows(results)), plan.target, start)) is not None:
            missing(Open(rate_to_try), "search")


def _rows(results: Results) -> list[Row]:
    return rows_of(results.latest())
