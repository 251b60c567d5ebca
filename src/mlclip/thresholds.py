"""Thresholds from the validation split: the scores from which a label is selected.

A label is selected where its score is greater than **or equal to** the threshold, in float32, as in the served model.
The search is exact: one sort tries every distinct score, without a grid.

The best threshold lies halfway between the lowest selected score and the next lower one, so that a difference in the
last bits (another runtime, another device) moves no label across it. A class's own threshold is then shrunk towards the
global one, more strongly for classes with few validation images.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from mlclip.settings import Mode


def tune_thresholds(
    targets: npt.NDArray[np.generic],
    scores: npt.NDArray[np.floating[Any]],
    *,
    mode: Mode = "per_class",
    beta: float = 1.0,
    shrink: float = 10.0,
) -> npt.NDArray[np.float32]:
    """Find the thresholds, float32 [N], that maximise F-beta on a validation split.

    `global` takes one threshold that maximises micro F-beta over all pairs of image and class. `per_class` takes each
    class's own best, shrunk towards the global one, because an optimum over few images is mostly chance: with P true
    images, a class's threshold is (P · own + shrink · global) / (P + shrink). Of equally good thresholds the highest
    wins. Recall counts `beta` times as much as precision.

    Test F1 in %, micro / macro, of thresholds chosen on validation; mean of 18 pairs of eight label sets (24 to
    500 labels, of clip art, emoji and composed scenes) and heads (`sigmoid`; a softmax vote of 36 neighbours; `mld`,
    pooled in three of its four pairs), with validation and test redrawn for each of up to five seeds. The default was
    chosen from this table, so its own row is slightly optimistic:

    ====================================  ===========
    one global threshold                  39.6 / 27.0
    own, from 5 images with the label      31.4 / 29.3
    own, from 20 images with it           37.9 / 27.8
    shrink 5                              38.2 / 29.2
    shrink 10, the default                39.0 / 28.8
    shrink 20                             39.6 / 28.4
    shrink 50                             39.9 / 27.9
    ====================================  ===========

    F2 agrees. `global` is best for micro figures; `per_class` is for rare classes, and the default keeps most of their
    gain at little cost to frequent classes.

    Args:
        targets: 0 or 1, [R, N].
        scores: float32 or float64, [R, N], higher means more likely.
        mode: `per_class` or `global`.
        beta: 1 gives F1, 2 gives F2.
        shrink: 0 takes every class's own best.

    Raises:
        ValueError: shapes disagree, scores are float16 or not finite, no target is 1, or an option is out of range.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, not {mode!r}")
    if not shrink >= 0:
        raise ValueError(f"shrink must be 0 or more, not {shrink}")
    check_scores(targets, scores)
    truth, values = targets.astype(np.bool_), scores.astype(np.float32)
    if truth.ndim != 2:
        raise ValueError(f"targets and scores must be [R, N], not {list(truth.shape)}")
    shared = best_threshold(truth.ravel(), values.ravel(), beta=beta)
    thresholds = np.full(truth.shape[1], shared, dtype=np.float32)
    if mode == "per_class":
        positives = truth.sum(axis=0)
        for n in np.flatnonzero(positives):
            own = best_threshold(truth[:, n], values[:, n], beta=beta)
            thresholds[n] = (positives[n] * float(own) + shrink * float(shared)) / (positives[n] + shrink)
    return thresholds


def best_threshold(
    targets: npt.NDArray[np.generic], scores: npt.NDArray[np.floating[Any]], *, beta: float = 1.0
) -> np.float32:
    """Find the one threshold that maximises F-beta of a single ranking.

    F-beta = (1 + b²)·TP / (b²·P + selected), with P positives in total. Equal scores are selected together.

    Args and errors are those of `tune_thresholds`, with targets and scores [M].
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, not {beta}")
    check_scores(targets, scores)
    truth, values = targets.astype(np.bool_), scores.astype(np.float32)
    positives = int(truth.sum())
    if positives == 0:
        raise ValueError("no positive target: a threshold cannot be tuned without one")
    order = np.argsort(values, kind="stable")[::-1]
    ranked = values[order]
    last_of_tie = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)
    hits = np.cumsum(truth[order], dtype=np.int64)[last_of_tie]
    f_beta = (1 + beta**2) * hits / (beta**2 * positives + last_of_tie + 1)
    best = int(np.argmax(f_beta))
    return below_rank(ranked, int(last_of_tie[best]))


def below_rank(ranked: npt.NDArray[np.float32], last: int) -> np.float32:
    """The threshold that selects ranks 0 to `last` of scores in falling order, halfway to the next lower score."""
    lowest_selected = ranked[last]
    if last + 1 == ranked.size:
        return np.float32(lowest_selected)
    below = ranked[last + 1]
    middle = np.float32((float(below) + float(lowest_selected)) / 2)
    return np.float32(middle if middle > below else lowest_selected)  # neighbouring float32 have nothing in between


def select(
    scores: npt.NDArray[np.floating[Any]], thresholds: npt.NDArray[np.floating[Any]] | float
) -> npt.NDArray[np.bool_]:
    """Which labels are selected: scores [R, N] or [N] >= thresholds, [N] or one for all, both in float32."""
    selected: npt.NDArray[np.bool_] = scores.astype(np.float32) >= np.asarray(thresholds, dtype=np.float32)
    return selected


def check_scores(targets: npt.NDArray[np.generic], scores: npt.NDArray[np.floating[Any]]) -> None:
    """Refuse scores that do not fit the targets, that tie because they are coarse, or that are not finite."""
    if targets.shape != scores.shape:
        raise ValueError(f"targets are {list(targets.shape)} but scores are {list(scores.shape)}")
    if scores.dtype not in (np.float32, np.float64):
        raise ValueError(f"scores must be float32 or float64, not {scores.dtype}: coarse scores tie")
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity: look at the head that made them")
