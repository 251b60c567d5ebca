"""Which pictures a person should look at: those from which the next training learns most, each with the reason."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlclip_client.names import LABEL_STUDIO_FILES, is_address
from mlclip_client.output.near_duplicates import first_alike
from mlclip_client.report.answers import HeadScores
from mlclip_client.report.columns import Columns, read_columns
from mlclip_client.report.entries import SCALE

NOVEL = 0.95
"""Novelty from which an image counts as novel: one in twenty of the validation images."""
ALIKE = 0.97
"""Cosine similarity from which only one of two pictures is worth a look."""


class Picture(NamedTuple):
    """A picture to look at, the labels that were selected, and why."""

    path: str
    labels: list[str]
    reason: str


def choose(labels: Path, budget: int, head: str | None = None) -> list[Picture]:
    """Choose at most `budget` pictures of a file of rows, the most useful first.

    Half of them have scores close to their thresholds; the others are novel, or have high scores of classes whose
    promise fails. Of alike pictures, one is chosen, if rows have embeddings. Raises ValueError if the file cannot be
    read, or has several heads and none is named.
    """
    columns = read_columns(labels, sys.maxsize)
    if head is None and len(columns.heads) == 1:
        head = next(iter(columns.heads))
    if head not in columns.heads:
        raise ValueError(f"{labels} has the heads {', '.join(columns.heads) or 'none'}: name one with --head")
    scores, chosen = columns.heads[head], dict[int, str]()
    free = np.array([path is not None for path in columns.paths])
    if columns.embeddings is not None:
        free &= first_alike(columns.embeddings, ALIKE) == np.arange(len(columns))
    uncertain = _uncertain(scores)
    sources = [uncertain, _novel(scores), uncertain, _unproved(scores)]
    while sources and len(chosen) < budget:
        for source in list(sources):
            found = next(((row, why) for row, why in source if free[row] and row not in chosen), None)
            if found is None:
                sources.remove(source)
            elif len(chosen) < budget:
                chosen[found[0]] = found[1]
    if scores.known is None and not chosen:
        raise ValueError(f"{labels} does not name the thresholds of its head: name Parquet rows")
    return [_picture(columns, scores, row, reason) for row, reason in chosen.items()]


def label_studio_task(picture: Picture) -> dict[str, Any]:
    """A picture as a task of Label Studio, with its labels as a prediction for `Choices` named `labels`."""
    image = picture.path if is_address(picture.path) else f"{LABEL_STUDIO_FILES}{picture.path.removeprefix('/')}"
    choice = {"from_name": "labels", "to_name": "image", "type": "choices", "value": {"choices": picture.labels}}
    return {
        "data": {"image": image, "path": picture.path, "reason": picture.reason},
        "predictions": [{"model_version": "mlclip", "result": [choice]}],
    }


def _picture(columns: Columns, scores: HeadScores, row: int, reason: str) -> Picture:
    own, path = slice(*scores.starts[row : row + 2]), str(columns.paths[row])
    labels = [scores.classes[n] for n in scores.class_of[own][scores.selected[own]]]
    return Picture(path if is_address(path) else str(Path(path).absolute()), labels, reason)


def _uncertain(scores: HeadScores) -> Iterator[tuple[int, str]]:
    if scores.thresholds is None:
        return
    values, limits = scores.scores / SCALE, np.asarray(scores.thresholds)[scores.class_of]
    for entry in np.argsort(np.abs(_logit(values) - _logit(limits)), kind="stable"):
        label = scores.classes[scores.class_of[entry]]
        yield _image(scores, entry), f"uncertain: {label} {values[entry]:.2f}, threshold {limits[entry]:.2f}"


def _novel(scores: HeadScores) -> Iterator[tuple[int, str]]:
    novelty = np.nan_to_num(scores.novelty)
    for row in np.argsort(-novelty, kind="stable"):
        if novelty[row] < NOVEL:
            return
        yield int(row), f"novel: {novelty[row]:.2f}"


def _unproved(scores: HeadScores) -> Iterator[tuple[int, str]]:
    """The highest scores of each class whose promise fails for lack of positives, class by class in turn."""
    promise = scores.known.promise if scores.known else None
    reasons = {label: why for label, why in (promise or {"classes": {}})["classes"].items() if why and "needed" in why}
    entries = np.flatnonzero(np.isin(scores.class_of, [scores.classes.index(label) for label in reasons]))
    entries = entries[np.lexsort((-scores.scores[entries].astype(np.int64), scores.class_of[entries]))]
    classes = scores.class_of[entries]
    for entry in entries[np.argsort(np.arange(len(entries)) - np.searchsorted(classes, classes), kind="stable")]:
        label = scores.classes[scores.class_of[entry]]
        yield _image(scores, entry), f"few images: {label}, {reasons[label]}"


def _image(scores: HeadScores, entry: int) -> int:
    return int(np.searchsorted(scores.starts, entry, side="right")) - 1


def _logit(values: Any) -> Any:
    inside = np.clip(values, 1e-6, 1 - 1e-6)
    return np.log(inside) - np.log1p(-inside)
