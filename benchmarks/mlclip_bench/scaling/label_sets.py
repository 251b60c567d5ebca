"""How many distinct sets of labels data shows at a number of classes: what a powerset head has for classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from mlclip.data import Dataset

COUNTS = "label_sets.json"


def count_sets(dataset: Dataset, classes: Sequence[int]) -> dict[int, int]:
    """Count the label sets of a data set's most frequent N labels, for each N that it has; no label is a set, too."""
    counts = {}
    for n in classes:
        if n <= len(dataset.classes):
            chosen = set(dataset.top(n))
            counts[n] = len({frozenset(chosen.intersection(item.labels)) for item in dataset.items})
    return counts


def shipped_counts() -> dict[str, Any]:
    """The counts of the project's three data sets, with where they come from."""
    counts: dict[str, Any] = json.loads((files(__package__) / COUNTS).read_text(encoding="utf-8"))
    return counts


def at_classes(counted: Mapping[int, int], classes: Sequence[int]) -> dict[int, int]:
    """Label sets at each N; between two N that were counted in logarithms, outside of them none.

    Args:
        counted: label sets by number of classes.
        classes: N asked for.
    """
    known = sorted(counted)
    if not known:
        return {}
    logs = np.log([counted[n] for n in known])
    return {
        n: round(float(np.exp(np.interp(np.log(n), np.log(known), logs))))
        for n in classes
        if known[0] <= n <= known[-1]
    }


def widest(counts: Mapping[str, Any]) -> tuple[str, dict[int, int]]:
    """The shipped data set that was counted up to the most classes: its name and its counts."""
    by_name = {name: {int(n): sets for n, sets in data["label_sets"].items()} for name, data in counts["data"].items()}
    name = max(by_name, key=lambda one: max(by_name[one]))
    return name, by_name[name]
