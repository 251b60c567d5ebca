"""The raw lines of a run.

Kinds of lines: `setting` (first: what was asked, commit, machine), `graph` (facts about a case, once it is loaded),
`left` (a point that was skipped, and why), `round` (one turn of one point, with every call), `end`.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mlclip.json_lines import Line
from mlclip_bench.kit.store import Store
from mlclip_bench.scaling.cases import Series, SkippedPoint
from mlclip_bench.scaling.rounds import Point

KEPT_CALLS = 200  # of a turn with more calls, only this many are kept, evenly spread


class Results(Store):
    """The raw lines of one folder."""

    def start(self, asked: Mapping[str, Any], where: Mapping[str, Any], resume: bool) -> None:
        """Write what was asked, and on which commit and machine; or, with `resume`, continue a run of the same."""
        if not resume:
            self.check_new("--resume continues it")
        if self.lines():
            self.check_same(dict(asked), [self.setting()["asked"]])
        else:
            self.append({"kind": "setting", "asked": dict(asked), **where})

    def add_skipped(self, point: SkippedPoint) -> None:
        """Write a point that is not measured, once."""
        line = {"kind": "left", "title": point.title, "classes": point.classes, "why": point.why}
        if line not in self.of("left"):
            self.append(line)

    def add_round(self, point: Point, number: int, calls: Sequence[float]) -> None:
        """Write a turn: seconds per call."""
        seconds = [float(f"{value:.4g}") for value in calls[:: -(-len(calls) // KEPT_CALLS)]]
        self.append({"kind": "round", "case": point.case, "batch": point.batch, "round": number, "seconds": seconds})

    def calls(self) -> dict[Point, list[list[float]]]:
        """Seconds per call: a list for each round of each point."""
        found: dict[Point, list[list[float]]] = {}
        for line in self.of("round"):
            found.setdefault(Point(line["case"], line["batch"]), []).append(line["seconds"])
        return found


def medians(calls: Mapping[Point, Sequence[Sequence[float]]]) -> dict[Point, list[float]]:
    """The median call of each round."""
    return {point: [statistics.median(seconds) for seconds in rounds] for point, rounds in calls.items()}


def series_lines(series: Sequence[Series]) -> list[Line]:
    """The series as the setting stores them."""
    return [{"title": one.title, "cases": {str(case.classes): case.key for case in one.cases}} for one in series]
