"""Scores of heads that have not seen the image: every image is scored by heads trained on the others.

K folds in turn: one is scored, the next decides when training stops, chooses thresholds and calibrates, the others
train. Images of one group, or with the same bytes, are in one fold, so that no head has seen a near-copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from iterstrat.ml_stratifiers import IterativeStratification  # type: ignore[import-untyped]
from scipy.special import expit, logit  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from mlclip.data import Dataset
from mlclip.data.dataset import Progress, quiet
from mlclip.data.splits import together
from mlclip.encoders.clip import Encoder
from mlclip.encoders.features import FeatureCache
from mlclip.errors import DataError, TrainError
from mlclip.settings import Recipe, check_seed
from mlclip.thresholds import select
from mlclip.training.loop import predict_scores
from mlclip.training.runs import head_features, run_cache, train_run

CLIP = 1e-4
"""Scores are clipped to at least this distance from 0 and 1: neighbour heads give exact zeros, which have no logit."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Opinions:
    """What H heads say about R images that they have not seen.

    Probabilities, float64 [H, R, N], are calibrated; `selected`, bool [H, R, N], has the labels each head would give.
    """

    probabilities: Floats
    selected: npt.NDArray[np.bool_]


def opinions(
    dataset: Dataset,
    encoder: Encoder,
    cache: FeatureCache,
    recipes: Sequence[Recipe],
    folds: int = 5,
    seed: int = 0,
    *,
    on_training: Progress = quiet,
) -> Opinions:
    """Train each of H heads `folds` times, at least 3, and score each of R images by the one that has not seen it.

    The images' own splits are ignored. `on_training` is called with trainings done and to do.
    """
    if folds < 3:
        raise TrainError(f"an audit needs at least 3 folds (to train, to stop and to score), not {folds}")
    fold_of = assign_folds(dataset, folds, seed)
    shape = (len(recipes), len(dataset), len(dataset.classes))
    probabilities, selected = np.zeros(shape), np.zeros(shape, dtype=np.bool_)
    for fold in range(folds):
        scored, judging = fold_of == fold, fold_of == (fold + 1) % folds
        splits = np.where(scored, "test", np.where(judging, "val", "train"))
        items = (replace(item, split=str(split)) for item, split in zip(dataset.items, splits, strict=True))
        part = replace(dataset, items=tuple(items))
        for head, recipe in enumerate(recipes):
            run = train_run(part, encoder, cache, recipe)
            own = run_cache(run, cache)
            judged, found = (
                predict_scores(run.head, head_features(run.head, part.split(name), own)) for name in ("val", "test")
            )
            probabilities[head, scored] = calibrated(found, judged, part.split("val").targets())
            selected[head, scored] = select(found, run.thresholds)
            on_training(fold * len(recipes) + head + 1, folds * len(recipes))
    return Opinions(probabilities, selected)


def assign_folds(dataset: Dataset, folds: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Assign all items to folds that keep the share of every label: int64 [R], from 0."""
    check_seed(seed)
    units = together(dataset.items)
    count = int(units.max()) + 1
    if count < folds:
        raise DataError(f"too few images for {folds} folds: {len(dataset):,} in {count:,} groups")
    labels = np.zeros((count, len(dataset.classes)), dtype=np.bool_)
    np.logical_or.at(labels, units, dataset.targets().astype(np.bool_))
    drawn = IterativeStratification(labels, np.full(folds, 1 / folds), np.random.RandomState(seed))
    return np.asarray(drawn, dtype=np.int64)[units]


def calibrated(
    scores: npt.NDArray[np.float32], known: npt.NDArray[np.float32], targets: npt.NDArray[np.uint8]
) -> Floats:
    """Turn scores into probabilities by Platt's logistic fit on the scores' logits, one fit for all classes.

    Platt 1999, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods".

    Scores are in [0, 1], [R, N]; `known` are scores [V, N] of images with targets 0 or 1, [V, N], both among them.
    """
    if targets.all() or not targets.any():
        lacking = "without" if targets.all() else "with"
        raise DataError(f"a fold has no image {lacking} a label: an audit needs images with and without each")
    fit = LogisticRegression(C=1e6).fit(_logits(known).reshape(-1, 1), targets.ravel())
    probabilities: Floats = expit(fit.coef_[0, 0] * _logits(scores) + fit.intercept_[0])
    return probabilities


def _logits(scores: npt.NDArray[np.float32]) -> Floats:
    return np.asarray(logit(np.clip(scores.astype(np.float64), CLIP, 1 - CLIP)))
