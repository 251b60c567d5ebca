"""What methods without an encoder reach. A head has to beat both clearly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from mlclip_client.pixels import PixelSpec, to_pixels

from mlclip.data import Dataset, Item

NEIGHBOURS = 10
SPEC = PixelSpec(24, "bilinear", "squash")

Floor = Callable[[Dataset, Dataset], npt.NDArray[np.float32]]


def frequency_scores(train: Dataset, asked: Dataset) -> npt.NDArray[np.float32]:
    """Score R images alike, float32 [R, N], each class by its share of the training images: a blind guess."""
    share = train.targets().mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.tile(share, (len(asked), 1))


def pixel_scores(train: Dataset, asked: Dataset) -> npt.NDArray[np.float32]:
    """Score R images, float32 [R, N], by the labels of the 10 nearest training images, Euclidean on 24 x 24 RGB pixels.

    Labels are weighted by exp(-5 distance / mean distance), the best of the weightings that were tried.
    """
    known, rows = _pixels(train.items), _pixels(asked.items)
    blocks = [_nearest(rows[start : start + 256], known) for start in range(0, len(rows), 256)]
    nearest, distance = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    weight = np.exp(-5 * distance / max(float(distance.mean()), 1e-9))
    labels = train.targets()[nearest].astype(np.float32)
    weighted = (labels * weight[..., None]).sum(axis=1) / weight.sum(axis=1, keepdims=True)
    scores: npt.NDArray[np.float32] = weighted.clip(0, 1).astype(np.float32)
    return scores


CHANCE = "label frequency"
FLOORS: Mapping[str, Floor] = {CHANCE: frequency_scores, "raw pixels": pixel_scores}


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
