"""The figures of a table's columns: how to take each from a run's metrics, and how to print it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Get = Callable[[Mapping[str, Any]], float | None]


def _rates(average: str) -> dict[str, Get]:
    def get(key: str) -> Get:
        return lambda metrics: metrics[average][key]

    return {f"{word} {average}": get(key) for word, key in _RATES.items()}


def _at(name: str, k: int) -> Get:
    return lambda metrics: metrics[name].get(str(k))


_RATES = {"P": "precision", "R": "recall", "F1": "f1", "F2": "f2"}

RANKING: Mapping[str, Get] = {
    "mAP": lambda metrics: metrics["mean_average_precision"],
    "ROC AUC macro": lambda metrics: metrics["roc_auc_macro"],
    "ROC AUC micro": lambda metrics: metrics["roc_auc_micro"],
    **{f"P@{k}": _at("precision_at", k) for k in (1, 3, 5)},
    **{f"nDCG@{k}": _at("ndcg_at", k) for k in (3, 5)},
    "MSE": lambda metrics: metrics["mse"],
}
"""What needs no thresholds. nDCG@1 is P@1 over the pictures that have a label."""

DECISIONS: Mapping[str, Get] = {
    **_rates("micro"),
    **_rates("macro"),
    "accuracy": lambda metrics: metrics["accuracy"],
    "subset accuracy": lambda metrics: metrics["subset_accuracy"],
}
"""What depends on the thresholds."""

SHORT: Mapping[str, Get] = {
    name: (RANKING | DECISIONS)[name]  # type: ignore[operator]
    for name in ("mAP", "F1 micro", "F1 macro", "P@1", "ROC AUC macro")
}


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean over seeds and standard deviation (None for one seed)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def cell(title: str, values: Sequence[float | None]) -> str:
    """Mean ± deviation over seeds, in percent; the mean squared error as it is; `-` where a figure is undefined."""
    scale, digits = (1, 4) if title == "MSE" else (100, 1)
    known = [scale * value for value in values if value is not None]
    if not known:
        return "-"
    mean, deviation = mean_and_deviation(known)
    return f"{mean:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")
