"""Pictures for training on pixels: decoded once into a memory-mapped file, augmented on every read."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from mlclip_client.pixels import ImageError, PixelSpec, to_pixels
from PIL import Image
from torch import Tensor

from mlclip.data import Item
from mlclip.data.dataset import Progress
from mlclip.errors import TrainError
from mlclip.files import read_file
from mlclip.training.pretrain import PretrainConfig, jitter, random_crop

Pixels = npt.NDArray[np.uint8]
_log = logging.getLogger(__name__)


def decode_pictures(items: Sequence[Item], spec: PixelSpec, file: Path, on_images: Progress) -> Pixels:
    """Write pictures as uint8 [R, S, S, 3] into a memory-mapped file."""
    shape = (len(items), spec.size, spec.size, 3)
    _log.info("%d pictures are decoded to %s (%.0f MB)", len(items), file.parent, np.prod(shape) / 1e6)
    pictures = np.memmap(file, np.uint8, "w+", shape=shape)
    for row, item in enumerate(items):
        try:
            pictures[row] = to_pixels(read_file(item.path), spec)
        except (ImageError, OSError) as error:
            raise TrainError(f"{item.path}: {error}; remove it (`mlclip data` finds such files)") from error
        on_images(row + 1, len(items))
    return pictures


def augmented(
    pictures: Pixels,
    rows: npt.NDArray[np.int64],
    size: int,
    preprocess: dict[str, Sequence[float]],
    rng: np.random.Generator,
) -> Tensor:
    """Random crops of some rows of pictures [R, 2S, 2S, 3], jittered and normalised: float32 [B, 3, S, S].

    `rng` draws the crops, torch's own generator the jitter; `preprocess` is open_clip's `preprocess_cfg`.
    """
    seeds = rng.spawn(len(rows))
    smallest = PretrainConfig().smallest_crop

    def crop(row: np.int64, seed: np.random.Generator) -> Pixels:
        return random_crop(Image.fromarray(pictures[row]), size, smallest, seed)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        crops = np.stack(list(pool.map(crop, rows, seeds)))
    return jitter(torch.from_numpy(crops), preprocess)
