"""From raw lines and scores to what the report and the pictures show; nothing is measured again.

What needs the scores (intervals, precision-recall curves) is kept in `statistics.json` with the hashes of the scores it
came from, so a copy of the folder without scores gives the same report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_curve  # type: ignore[import-untyped]

from mlclip.errors import ResultsError
from mlclip.json_lines import Line
from mlclip_bench.heads.floors import FLOORS
from mlclip_bench.heads.results import Results, TestScores, key_of
from mlclip_bench.heads.statistics import FIGURES, LEVEL, RESAMPLES, Comparison, Targets, compare_methods

Shots = int | None
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Derived:
    """A comparison, ready to be told.

    Attributes:
        runs: training images a class (None: all) to method to its lines, one a seed; methods by test mAP, best first,
            floors last. A method without randomness has one line.
        comparisons: training images a class to figure to intervals; a method whose scores are not here is in none.
        curves: method to its micro precision at the recalls `RECALLS`, mean over seeds, trained on all images.
        failures: the lines of runs that failed.
        note: what `note.md` says.
    """

    runs: Mapping[Shots, Mapping[str, Sequence[Line]]]
    comparisons: Mapping[Shots, Mapping[str, Comparison]]
    curves: Mapping[str, Sequence[float]]
    failures: Sequence[Line]
    note: str

    @property
    def setting(self) -> Line:
        """A line, for what all lines share."""
        return next(iter(next(iter(self.runs.values())).values()))[0]


def derive(results: Results) -> Derived:
    """Put a folder's runs together, and compute what is not in `statistics.json` yet.

    Raises:
        ResultsError: nothing was measured here, or a file cannot be read or written.
    """
    lines = results.lines()
    measured = [line for line in lines if "error" not in line]
    if not measured:
        reasons = "; ".join(sorted({line["error"] for line in lines}))
        raise ResultsError(f"{results.folder}: nothing was measured: " + (reasons or "name the data with --data"))
    shots = sorted({line["shots"] for line in measured}, key=lambda k: (k is None, k))
    runs = {k: _methods([line for line in measured if line["shots"] == k]) for k in shots}
    plain = _statistics(results, runs)
    return Derived(
        runs=runs,
        comparisons={
            k: {name: Comparison.from_dict(figure) for name, figure in plain["shots"][_word(k)].items()} for k in shots
        },
        curves=plain["precision"],
        failures=[line for line in lines if "error" in line],
        note=results.note(),
    )


def is_floor(method: str) -> bool:
    """Whether a method is one of those that need no encoder."""
    return method in FLOORS


def _methods(lines: Sequence[Line]) -> dict[str, list[Line]]:
    grouped: dict[str, list[Line]] = {}
    for line in sorted(lines, key=lambda line: line["seed"]):
        grouped.setdefault(line["variant"], []).append(line)
    grouped = {name: _without_copies(own) for name, own in grouped.items()}

    def rank(name: str) -> tuple[bool, float]:
        return is_floor(name), -np.mean([line["test"]["mean_average_precision"] for line in grouped[name]])

    return {name: grouped[name] for name in sorted(grouped, key=rank)}


def _without_copies(lines: list[Line]) -> list[Line]:
    """One line, where every seed gave the same scores."""
    return lines[:1] if len({line["scores"]["sha256"] for line in lines}) == 1 else lines


def _statistics(results: Results, runs: Mapping[Shots, Mapping[str, Sequence[Line]]]) -> dict[str, Any]:
    """What `statistics.json` holds, where it belongs to these runs; else computed from their scores."""
    path = results.folder / "statistics.json"
    wanted = {
        "resamples": RESAMPLES,
        "level": LEVEL,
        "scores": {
            " / ".join(map(str, key_of(line))): line["scores"]["sha256"]
            for methods in runs.values()
            for lines in methods.values()
            for line in lines
        },
    }
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: cannot be read: delete it ({error})") from error
    if all(stored.get(name) == value for name, value in wanted.items()):
        return stored
    computed = wanted | _computed(results, runs)
    try:
        path.write_text(json.dumps(computed, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{path}: cannot be written: {error.strerror or error}") from error
    return computed


def _computed(results: Results, runs: Mapping[Shots, Mapping[str, Sequence[Line]]]) -> dict[str, Any]:
    targets = results.targets()
    shots, precision = {}, {}
    for k, methods in runs.items():
        loaded = _loaded(results, methods) if targets is not None else {}
        shots[_word(k)] = (
            {
                name: compare_methods(targets, loaded, figure, resamples=RESAMPLES).to_dict()
                for name, figure in FIGURES.items()
            }
            if targets is not None and loaded
            else {}
        )
        if k is None and targets is not None:
            precision = {name: _precision(targets, outcomes) for name, outcomes in loaded.items()}
    return {"shots": shots, "precision": precision}


def _loaded(results: Results, methods: Mapping[str, Sequence[Line]]) -> dict[str, list[TestScores]]:
    """Scores of the methods that have all of theirs here."""
    loaded = {}
    for name, lines in methods.items():
        outcomes = [outcome for line in lines if (outcome := results.scores(line)) is not None]
        if len(outcomes) == len(lines):
            loaded[name] = outcomes
    return loaded


def _precision(targets: Targets, outcomes: Sequence[TestScores]) -> list[float]:
    """Micro precision where recall first reaches each of `RECALLS`, mean over seeds."""
    curves = []
    for outcome in outcomes:
        precision, recall, _ = precision_recall_curve(targets.ravel(), outcome.scores.ravel())
        precision, recall = precision[-2::-1], recall[-2::-1]  # rising recall, without the point that none selects
        curves.append(precision[np.minimum(np.searchsorted(recall, RECALLS), len(recall) - 1)])
    return [round(float(value), 5) for value in np.mean(curves, axis=0)]


def _word(shots: Shots) -> str:
    return "all" if shots is None else str(shots)
