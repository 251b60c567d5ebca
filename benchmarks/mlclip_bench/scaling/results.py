"""Raw lines of a run: one JSON object a line, written as soon as it is known, in `results.jsonl`.

Kinds of lines: `setting` (first: what was asked, commit, machine), `graph` (facts of a case, once it is loaded), `left`
(a point that is not measured, and why), `round` (one turn of one point, every call), `end`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlclip.errors import ResultsError
from mlclip.json_lines import Line, append_line, read_lines
from mlclip_bench.scaling.cases import Series, SkippedPoint
from mlclip_bench.scaling.rounds import Point

FILE = "results.jsonl"
KEPT_CALLS = 200
"""Of a turn with more calls than this, every so many are kept, evenly."""


class Raw:
    """The raw lines of one folder.

    Args:
        folder: made with the first line.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines = read_lines(folder / FILE, "line of mlclip-bench", lambda line: line["kind"])

    def start(self, asked: Mapping[str, Any], where: Mapping[str, Any], resume: bool) -> None:
        """Write the setting, or go on with a run of the same.

        Args:
            asked: what decides what is measured, plain JSON values.
            where: commit, machine and versions.
            resume: whether the folder may hold a part of this run.

        Raises:
            ResultsError: the folder holds a run and `resume` is false, or a run of something else.
        """
        if not self.lines:
            self.append({"kind": "setting", "asked": dict(asked), **where})
        elif not resume:
            raise ResultsError(f"{self.folder} holds a run: --resume goes on with it, --out names another folder")
        elif self.setting["asked"] != json.loads(json.dumps(asked)):
            other = [name for name in asked if self.setting["asked"].get(name) != json.loads(json.dumps(asked[name]))]
            raise ResultsError(
                f"{self.folder} holds a run with another {', '.join(other)}: ask for the same, or give another --out"
            )

    @property
    def setting(self) -> Line:
        """The first line.

        Raises:
            ResultsError: there is none.
        """
        if not self.lines or self.lines[0].get("kind") != "setting":
            raise ResultsError(f"{self.folder} holds no run of mlclip-bench: measure with --out {self.folder}")
        return self.lines[0]

    def of(self, kind: str) -> list[Line]:
        """All lines of a kind."""
        return [line for line in self.lines if line["kind"] == kind]

    def add_left(self, left: SkippedPoint) -> None:
        """Note down a point that is not measured."""
        line = {"kind": "left", "title": left.title, "classes": left.classes, "why": left.why}
        if line not in self.lines:
            self.append(line)

    def add_round(self, point: Point, number: int, calls: Sequence[float]) -> None:
        """Note down a turn: seconds a call."""
        seconds = [float(f"{value:.4g}") for value in calls[:: -(-len(calls) // KEPT_CALLS)]]
        line = {"kind": "round", "case": point.case, "batch": point.batch, "round": number, "seconds": seconds}
        self.append(line)

    def append(self, line: Line) -> None:
        """Write a line.

        Raises:
            ResultsError: the folder cannot be written.
        """
        append_line(self.folder / FILE, line)
        self.lines.append(line)

    def calls(self) -> dict[Point, list[list[float]]]:
        """Each point's rounds: the seconds of their calls."""
        found: dict[Point, list[list[float]]] = {}
        for line in self.of("round"):
            found.setdefault(Point(line["case"], line["batch"]), []).append(line["seconds"])
        return found

    def medians(self) -> dict[Point, list[float]]:
        """Each point's rounds: the median of their calls, seconds."""
        return {point: [statistics.median(calls) for calls in rounds] for point, rounds in self.calls().items()}


def series_line(series: Sequence[Series]) -> list[Line]:
    """The series as the setting carries them."""
    return [
        {"title": one.title, "claim": one.claim, "cases": {str(case.classes): case.key for case in one.cases}}
        for one in series
    ]
