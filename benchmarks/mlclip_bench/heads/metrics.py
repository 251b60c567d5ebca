"""The metrics of tables and figures: where each is in a run's raw line, and how to print it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlclip.console import figure_at


def _rates(average: str) -> dict[str, str]:
    words = {"P": "precision", "R": "recall", "F1": "f1", "F2": "f2", "specificity": "specificity"}
    return {f"{word} {average}": f"{average}.{key}" for word, key in words.items()}


RANKING: Mapping[str, str] = {
    "mAP": "mean_average_precision",
    "ROC AUC macro": "roc_auc_macro",
    "ROC AUC micro": "roc_auc_micro",
    **{f"P@{k}": f"precision_at.{k}" for k in (1, 3, 5)},
    **{f"nDCG@{k}": f"ndcg_at.{k}" for k in (3, 5)},
    "MSE": "mse",
}
"""Metrics without thresholds, as `figure_at` takes them. nDCG@1 is P@1 over the images that have a label."""

DECISIONS: Mapping[str, str] = {
    **_rates("micro"),
    **_rates("macro"),
    **_rates("weighted"),
    "accuracy": "accuracy",
    "subset accuracy": "subset_accuracy",
}
"""Metrics of what is selected at the thresholds."""

METRICS: Mapping[str, str] = {**RANKING, **DECISIONS}
SUMMARY = ("mAP", "F1 micro", "F1 macro", "P@1", "ROC AUC macro")


def values_of(title: str, lines: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """A metric of the test images, by its title, in each of some raw lines."""
    return [figure_at(line["test"], METRICS[title]) for line in lines]


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
