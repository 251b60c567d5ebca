"""The temperature of neighbour methods, chosen on validation."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mlclip.heads.base import each_batch
from mlclip.heads.values import MOST_IMAGES, Examples
from mlclip.metrics import mean_average_precision

TEMPERATURES: tuple[float, ...] = tuple(2.0 ** (power / 2) for power in range(2, 17))
"""What validation chooses from where no temperature is given: 2 to 256."""


@torch.no_grad()
def best_temperature(scores: Callable[[Tensor], Tensor], validation: Examples) -> float:
    """The one of the `TEMPERATURES` with the best mAP on validation images.

    `scores` maps embeddings [B, D] to scores [B, len(TEMPERATURES), N].
    """
    images = validation.at_most(MOST_IMAGES)
    found = each_batch(scores, images.features)
    qualities = [mean_average_precision(images.targets, found[:, n]) or 0.0 for n in range(len(TEMPERATURES))]
    return TEMPERATURES[int(np.argmax(qualities))]
