"""From raw lines and scores to what the report and the figures show; nothing is measured again.

What needs the scores (intervals, precision-recall curves) is kept in `statistics.json` with the hashes of the scores,
so a copy of the folder without scores gives the same report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_curve  # type: ignore[import-untyped]

from mlclip.errors import ResultsError
from mlclip.json_lines import Line
from mlclip_bench.heads.baselines import BASELINES
from mlclip_bench.heads.comparison import Comparison, Targets, compare_methods, compared_by
from mlclip_bench.heads.results import Results, TestScores
from mlclip_bench.kit.files import read_json, write_json
from mlclip_bench.kit.intervals import LEVEL, RESAMPLES

Shots = int | None
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Derived:
    """A comparison, ready for report and figures."""

    # training images per class (None: all) -> method -> its lines, one per seed; methods by test mAP, best first,
    # baselines last. A method without randomness has one line.
    runs: Mapping[Shots, Mapping[str, Sequence[Line]]]
    # training images per class -> metric -> intervals; a method without scores here is in none
    comparisons: Mapping[Shots, Mapping[str, Comparison]]
    # method -> its micro precision at the recalls `RECALLS`, mean over seeds, trained on all images
    curves: Mapping[str, Sequence[float]]
    failures: Sequence[Line]  # the lines of runs that failed
    note: str  # what `note.md` says

    @property
    def setting(self) -> Line:
        """A line, for what all lines have in common."""
        return next(iter(next(iter(self.runs.values())).values()))[0]


def derive(results: Results) -> Derived:
    """Group the runs of a folder, and compute what is not in `statistics.json` yet; raises ResultsError without any."""
    lines = results.latest()
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
            k: {name: Comparison.from_dict(values) for name, values in plain["shots"][_word(k)].items()} for k in shots
        },
        curves=plain["precision"],
        failures=[line for line in lines if "error" in line],
        note=results.note(),
    )


def _methods(lines: Sequence[Line]) -> dict[str, list[Line]]:
    grouped: dict[str, list[Line]] = {}
    for line in sorted(lines, key=lambda line: line["seed"]):
        grouped.setdefault(line["variant"], []).append(line)
    for name, own in grouped.items():
        if len({line["scores"]["sha256"] for line in own}) == 1:  # without randomness, all seeds give the same
            grouped[name] = own[:1]

    def rank(name: str) -> tuple[bool, float]:
        return name in BASELINES, -np.mean([line["test"]["mean_average_precision"] for line in grouped[name]])

    return {name: grouped[name] for name in sorted(grouped, key=rank)}


def _statistics(results: Results, runs: Mapping[Shots, Mapping[str, Sequence[Line]]]) -> dict[str, Any]:
    """The content of `statistics.json` if it belongs to these runs, otherwise computed from their scores."""
    path = results.folder / "statistics.json"
    wanted = {
        "resamples": RESAMPLES,
        "level": LEVEL,
        "scores": {
            " / ".join(map(str, results.key(line))): line["scores"]["sha256"]
            for methods in runs.values()
            for lines in methods.values()
            for line in lines
        },
    }
    stored: dict[str, Any] = read_json(path) if path.exists() else {}
    if all(stored.get(name) == value for name, value in wanted.items()):
        return stored
    computed = wanted | _computed(results, runs)
    write_json(path, computed)
    return computed


def _computed(results: Results, runs: Mapping[Shots, Mapping[str, Sequence[Line]]]) -> dict[str, Any]:
    targets = results.targets()
    metrics = compared_by(next(iter(next(iter(runs.values())).values()))[0]["study"])
    shots, precision = {}, {}
    for k, methods in runs.items():
        loaded = _loaded(results, methods) if targets is not None else {}
        shots[_word(k)] = (
            {
                name: compare_methods(targets, loaded, metric, resamples=RESAMPLES).to_dict()
                for name, metric in metrics.items()
            }
            if targets is not None and loaded
            else {}
        )
        if k is None and targets is not None:
            precision = {name: _precision(targets, outcomes) for name, outcomes in loaded.items()}
    return {"shots": shots, "precision": precision}


def _loaded(results: Results, methods: Mapping[str, Sequence[Line]]) -> dict[str, list[TestScores]]:
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
