"""From raw lines to latencies with intervals, growth, ratios and break-even. Nothing is measured here."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlclip.errors import ResultsError
from mlclip.json_lines import Line
from mlclip_bench.kit.files import write_json
from mlclip_bench.kit.intervals import Estimate, geometric_mean, ratio
from mlclip_bench.scaling.cases import ENCODER, WHOLE, claim
from mlclip_bench.scaling.growth import break_even, exponent
from mlclip_bench.scaling.results import Results, medians
from mlclip_bench.scaling.rounds import ACCURACY, Point

FILE = "scaling.json"
EXPONENT_TO = 1000  # the growth exponent is fitted up to this N, where two N are; a second one is fitted over all N


@dataclass(frozen=True)
class Spread:
    """Latency of a point, in milliseconds."""

    latency: Estimate  # geometric mean over rounds of each round's median call
    p95: float  # of all calls
    dispersion: float  # half of the distance between the quartiles of all calls, as a share of their median
    rounds: int
    calls: int

    @property
    def stable(self) -> bool:
        """Whether half of the interval is below `ACCURACY` of the latency."""
        return self.rounds > 1 and self.latency.relative_half_width < ACCURACY


class Derived:
    """What the raw lines of a run show: latencies of points, facts about cases; raises ResultsError without any.

    `series` has the keys of each series' cases by N.
    """

    def __init__(self, results: Results) -> None:
        self.folder = results.folder
        self.setting = results.setting()
        self.asked: Line = self.setting["asked"]
        calls = results.calls()
        if not calls:
            raise ResultsError(f"{results.path} holds no measured point yet: --resume continues the run")
        self._rounds = medians(calls)
        self.spreads = {point: _spread(rounds, self._rounds[point]) for point, rounds in calls.items()}
        self.graphs = {line["case"]: line for line in results.of("graph")}
        self.skipped = results.of("left")
        self.ended = bool(results.of("end"))
        self.series = {one["title"]: {int(n): key for n, key in one["cases"].items()} for one in self.asked["series"]}
        self.titles = list(self.series)
        self.claims = {one["title"]: claim(one["title"]) for one in self.asked["series"]}

    def rounds(self, title: str, batch: int) -> dict[int, list[float]]:
        """Medians of the rounds of a series' measured points, in seconds, by N."""
        points = {n: Point(key, batch) for n, key in self.series[title].items()}
        return {n: self._rounds[point] for n, point in points.items() if point in self._rounds}

    def spread(self, title: str, classes: int, batch: int) -> Spread:
        """Latency of a series' measured point."""
        return self.spreads[Point(self.series[title][classes], batch)]

    def encoder(self, batch: int) -> Spread | None:
        """The encoder's latency."""
        return self.spreads.get(Point(ENCODER, batch))

    def end_to_end(self, key: str, batch: int) -> Estimate | None:
        """Encoder and head, in milliseconds: as one request where that was measured, otherwise the sum of both.

        A sum's interval is the sum of both intervals, which is wider than necessary.
        """
        whole = self.spreads.get(Point(WHOLE + key, batch))
        if whole is not None:
            return whole.latency
        head, encoder = self.spreads.get(Point(key, batch)), self.encoder(batch)
        if head is None or encoder is None:
            return None
        parts = (head.latency, encoder.latency)
        return Estimate(sum(p.value for p in parts), sum(p.low for p in parts), sum(p.high for p in parts))

    def growth(self, title: str, batch: int) -> dict[str, Any]:
        """Exponents, ratios and break-even of a series as plain JSON values; empty with fewer than two N."""
        rounds = self.rounds(title, batch)
        if len(rounds) < 2:
            return {}
        smallest = min(rounds)
        near = {n: part for n, part in rounds.items() if n <= EXPONENT_TO}
        found: dict[str, Any] = {
            "ratios": {f"{n}/{smallest}": ratio(rounds[n], rounds[smallest]).to_dict() for n in rounds if n > smallest}
        }
        if len(near) > 1:
            found["exponent"] = {"from": smallest, "to": max(near), **exponent(near).to_dict()}
        if max(rounds) > EXPONENT_TO:
            found["exponent_of_all"] = {"from": smallest, "to": max(rounds), **exponent(rounds).to_dict()}
        encoder = self.encoder(batch)
        if encoder is not None:
            means = {n: geometric_mean(part).value * 1e3 for n, part in rounds.items()}
            found["break_even"] = asdict(break_even(means, encoder.latency.value))
        return found

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        batches = self.asked["batches"]
        return {
            "setting": {name: value for name, value in self.setting.items() if name != "kind"},
            "encoder": {
                batch: self._point(ENCODER, batch) for batch in batches if Point(ENCODER, batch) in self.spreads
            },
            "series": [
                {
                    "title": title,
                    "claim": self.claims[title],
                    "points": [
                        {"classes": n, **self._point(key, batch)}
                        for n, key in self.series[title].items()
                        for batch in batches
                        if Point(key, batch) in self.spreads
                    ],
                    "growth": {batch: self.growth(title, batch) for batch in batches},
                }
                for title in self.titles
            ],
            "left": [{k: v for k, v in line.items() if k != "kind"} for line in self.skipped],
            "ended": self.ended,
        }

    def save(self) -> None:
        """Write `scaling.json`."""
        write_json(self.folder / FILE, self.to_dict(), indent=1)

    def _point(self, key: str, batch: int) -> dict[str, Any]:
        spread, graph = self.spreads[Point(key, batch)], self.graphs.get(key, {})
        whole = None if key == ENCODER else self.end_to_end(key, batch)
        return {
            "case": key,
            "batch": batch,
            "latency_ms": spread.latency.to_dict(),
            "p95_ms": spread.p95,
            "dispersion": spread.dispersion,
            "images_per_second": 1e3 * batch / spread.latency.value,
            "end_to_end_ms": whole.to_dict() if whole else None,
            "end_to_end_images_per_second": 1e3 * batch / whole.value if whole else None,
            "peak_bytes": graph.get("peak_bytes", {}).get(str(batch)),
            "stable": spread.stable,
            "rounds": spread.rounds,
            "calls": spread.calls,
            **{name: value for name, value in graph.items() if name not in ("kind", "case", "peak_bytes")},
        }


def _spread(rounds: Sequence[Sequence[float]], middles: Sequence[float]) -> Spread:
    calls = np.concatenate(rounds) * 1e3
    low, middle, high, p95 = np.quantile(calls, [0.25, 0.5, 0.75, 0.95])
    mean = geometric_mean(middles).scaled(1e3)
    return Spread(mean, float(p95), float((high - low) / 2 / middle), len(middles), len(calls))
