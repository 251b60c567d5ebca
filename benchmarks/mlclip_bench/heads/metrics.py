"""The metrics of tables and figures: how to take each from a run's raw line, and how to print it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Get = Callable[[Mapping[str, Any]], float | None]


def _at(name: str, k: int) -> Get:
    return lambda metrics: metrics[name].get(str(k))


def _rates(average: str) -> dict[str, Get]:
    def get(key: str) -> Get:
        return lambda metrics: metrics.get(average, {}).get(key)  # older lines lack some

    words = {"P": "precision", "R": "recall", "F1": "f1", "F2": "f2", "specificity": "specificity"}
    return {f"{word} {average}": get(key) for word, key in words.items()}


RANKING: Mapping[str, Get] = {
    "mAP": lambda metrics: metrics["mean_average_precision"],
    "ROC AUC macro": lambda metrics: metrics["roc_auc_macro"],
    "ROC AUC micro": lambda metrics: metrics["roc_auc_micro"],
    **{f"P@{k}": _at("precision_at", k) for k in (1, 3, 5)},
    **{f"nDCG@{k}": _at("ndcg_at", k) for k in (3, 5)},
    "MSE": lambda metrics: metrics["mse"],
}
"""Metrics without thresholds. nDCG@1 is P@1 over the images that have a label."""

DECISIONS: Mapping[str, Get] = {
    **_rates("micro"),
    **_rates("macro"),
    **_rates("weighted"),
    "accuracy": lambda metrics: metrics["accuracy"],
    "subset accuracy": lambda metrics: metrics["subset_accuracy"],
}
"""Metrics of what is selected at the thresholds."""

METRICS: Mapping[str, Get] = {**RANKING, **DECISIONS}
SUMMARY: Mapping[str, Get] = {name: METRICS[name] for name in ("mAP", "F1 micro", "F1 macro", "P@1", "ROC AUC macro")}


def values_of(title: str, lines: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """A metric of the test images, by its title, in each of some raw lines."""
    return [METRICS[title](line["test"]) for line in lines]


def percent(title: str, lines: Sequence[Mapping[str, Any]]) -> list[float]:
    """The same in percent; an undefined metric counts as 0."""
    return [100 * (value or 0.0) for value in values_of(title, lines)]


def cell(title: str, values: Sequence[float | None]) -> str:
    """Mean ± standard deviation over seeds, in percent; MSE as it is; `-` where the metric is undefined."""
    scale, digits = (1, 4) if title == "MSE" else (100, 1)
    known = [scale * value for value in values if value is not None]
    if not known:
        return "-"
    deviation = f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{deviation}"
