"""Pictures for training on pixels: decoded once into a memory-mapped file, augmented on every read."""

import logging
import math
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

Pixels = npt.NDArray[np.uint8]
SMALLEST_CROP = 0.4
"""Share of a picture's area that a random crop shows at least."""
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

    def crop(row: np.int64, seed: np.random.Generator) -> Pixels:
        return random_crop(Image.fromarray(pictures[row]), size, SMALLEST_CROP, seed)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        crops = np.stack(list(pool.map(crop, rows, seeds)))
    return jitter(torch.from_numpy(crops), preprocess)


def random_crop(image: Image.Image, size: int, smallest: float, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A random crop of the picture, resized to [S, S, 3] and mirrored half the time."""
    area, aspect = rng.uniform(smallest, 1), math.exp(rng.uniform(-0.3, 0.3))
    width = min(1.0, math.sqrt(area * aspect)) * image.width
    height = min(1.0, math.sqrt(area / aspect)) * image.height
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def jitter(pixels: Tensor, preprocess: dict[str, Sequence[float]]) -> Tensor:
    """Random brightness, contrast and saturation per picture, then normalisation: float32 [B, 3, S, S]."""
    images = pixels.permute(0, 3, 1, 2).float() / 255
    brightness, contrast, saturation = (1 + 0.3 * (2 * torch.rand(3, len(images), 1, 1, 1) - 1)).unbind()
    gray = images.mean(1, keepdim=True)
    images = gray + saturation * (images - gray)
    images = brightness * (0.5 + contrast * (images - 0.5))
    return normalized(images.clamp(0, 1), preprocess)


def normalized(images: Tensor, preprocess: dict[str, Sequence[float]]) -> Tensor:
    """Pictures [B, 3, S, S] in [0, 1] as a tower takes them, by open_clip's `preprocess_cfg`."""
    mean, std = (torch.tensor(preprocess[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (images - mean) / std
