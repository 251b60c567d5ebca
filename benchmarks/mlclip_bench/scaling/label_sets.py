"""How many distinct sets of labels occur in data at a number of classes: a powerset head has a class per set."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from mlclip.data import Dataset

COUNTS = "label_sets.json"


def count_sets(dataset: Dataset, classes: Sequence[int]) -> dict[int, int]:
    """Count the sets of a dataset's N most frequent labels, for each N that it has; the empty set counts."""
    counts = {}
    for n in classes:
        if n <= len(dataset.classes):
            chosen = set(dataset.top(n))
            counts[n] = len({frozenset(chosen.intersection(item.labels)) for item in dataset.items})
    return counts


def shipped_counts() -> dict[str, Any]:
    """The counts of the project's three datasets and their provenance."""
    counts: dict[str, Any] = json.loads((files(__package__) / COUNTS).read_text(encoding="utf-8"))
    return counts


def at_classes(counted: Mapping[int, int], classes: Sequence[int]) -> dict[int, int]:
    """Label sets at each N: interpolated in logarithms between counted N, none outside of them."""
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
    """The shipped dataset that was counted up to the most classes: its name and its counts."""
    by_name = {name: {int(n): sets for n, sets in data["label_sets"].items()} for name, data in counts["data"].items()}
    name = max(by_name, key=lambda one: max(by_name[one]))
    return name, by_name[name]
