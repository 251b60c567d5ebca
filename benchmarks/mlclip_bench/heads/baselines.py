"""What every head has to beat: two methods without an encoder, and logistic regression on the same embeddings."""

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from mlclip_client.pixels import PixelSpec, to_pixels
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.multiclass import OneVsRestClassifier  # type: ignore[import-untyped]

from mlclip.data import Dataset, Item
from mlclip.encoders.features import FeatureCache
from mlclip.metrics import mean_average_precision

NEIGHBOURS = 10
SPEC = PixelSpec(24, "bilinear", "squash")
INVERSE_PENALTIES = (0.1, 1.0, 10.0, 100.0)

Scores = npt.NDArray[np.float32]
Score = Callable[[Dataset], Scores]
Baseline = Callable[[Dataset, FeatureCache], Score]
"""Fits on a data set's training and validation images; what it gives scores R images, float32 [R, N]."""


def label_frequency(dataset: Dataset, store: FeatureCache) -> Score:
    """A blind guess: all images alike, each class by its share of the training images."""
    share = dataset.split("train").targets().mean(axis=0, dtype=np.float64).astype(np.float32)
    return lambda asked: np.tile(share, (len(asked), 1))


def raw_pixels(dataset: Dataset, store: FeatureCache) -> Score:
    """The labels of the 10 nearest training images, Euclidean on 24 x 24 RGB pixels.

    Labels are weighted by exp(-5 distance / mean distance), the best of the weightings that were tried.
    """
    train = dataset.split("train")
    known, targets = _pixels(train.items), train.targets().astype(np.float32)

    def score(asked: Dataset) -> Scores:
        rows = _pixels(asked.items)
        blocks = [_nearest(rows[start : start + 256], known) for start in range(0, len(rows), 256)]
        nearest, distance = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        weight = np.exp(-5 * distance / max(float(distance.mean()), 1e-9))
        weighted = (targets[nearest] * weight[..., None]).sum(axis=1) / weight.sum(axis=1, keepdims=True)
        scores: Scores = weighted.clip(0, 1).astype(np.float32)
        return scores

    return score


def logistic_regression(dataset: Dataset, store: FeatureCache) -> Score:
    """scikit-learn's, one per class, on the embeddings; C is the one of `INVERSE_PENALTIES` best in validation mAP."""
    train, validation = dataset.split("train"), dataset.split("val")

    def rows(asked: Dataset) -> npt.NDArray[np.float32]:
        return store.rows([item.path for item in asked.items])[:]

    images, known = rows(train), validation.targets()
    targets = train.targets().astype(np.int64)  # scikit-learn 1.9 mixes up more than 255 columns of uint8

    def fitted(inverse_penalty: float) -> Score:
        model = OneVsRestClassifier(LogisticRegression(C=inverse_penalty, max_iter=1000))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about classes without a training image
            model.fit(images, targets)
        return lambda asked: model.predict_proba(rows(asked)).astype(np.float32)

    return max(map(fitted, INVERSE_PENALTIES), key=lambda score: mean_average_precision(known, score(validation)) or 0)


CHANCE = "label frequency"
REGRESSION = "logistic regression"
BASELINES: Mapping[str, Baseline] = {
    CHANCE: label_frequency,
    "raw pixels": raw_pixels,
    REGRESSION: logistic_regression,
}


def _nearest(
    rows: npt.NDArray[np.float32], known: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Positions and distances of the nearest known images, [B, 10] or fewer if there are fewer."""
    squares = (rows**2).sum(1)[:, None] + (known**2).sum(1)[None] - 2 * rows @ known.T
    nearest = np.argsort(squares, axis=1, kind="stable")[:, :NEIGHBOURS]
    return nearest, np.sqrt(np.maximum(np.take_along_axis(squares, nearest, axis=1), 0))


def _pixels(items: Sequence[Item]) -> npt.NDArray[np.float32]:
    pixels: npt.NDArray[np.float32] = np.stack(
        [to_pixels(item.path.read_bytes(), SPEC).ravel().astype(np.float32) for item in items]
    )
    return pixels
