"""Pictures of Debian's `openclipart-png`: flattened on white, made small, and grouped where they look alike."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin
from sklearn.neighbors import radius_neighbors_graph

from mlclip.data.similarity import connected

LONG_SIDE = 160
SHORTEST = 12
MOST_PIXELS = 250_000_000
THUMBNAIL = 24
ALIKE = 4.95  # the set's description says 5; its groups come out exactly with anything from 4.9 to 4.97

SAME_SHAPE = 0.05  # largest difference of two aspect ratios' logarithms

Thumbnail = npt.NDArray[np.uint8]


class Unusable(ValueError):
    """A picture that the set leaves out; the message is the reason."""


def shrink(path: Path) -> Image.Image:
    """Read a PNG and make it RGB on white with a long side of at most 160 px; small ones are not enlarged.

    Pictures over four times that size are first averaged over whole blocks of pixels, which keeps thin lines. Raises
    Unusable.
    """
    try:
        with PngImagePlugin.PngImageFile(path) as file:
            if file.width * file.height > MOST_PIXELS:
                raise Unusable(f"more than {MOST_PIXELS // 10**6} million pixels")
            picture = file.convert("RGBA")
    except (OSError, SyntaxError) as error:
        raise Unusable("undecodable") from error
    if min(picture.size) < SHORTEST:
        raise Unusable(f"smaller than {SHORTEST} px")
    longest = max(picture.size)
    if longest > 4 * LONG_SIDE:
        picture = picture.reduce(longest // (2 * LONG_SIDE))
    scale = min(1.0, LONG_SIDE / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    flat = Image.new("RGB", picture.size, "white")
    flat.paste(picture, mask=picture.getchannel("A"))
    if np.ptp(np.asarray(flat).reshape(-1, 3), axis=0).max() == 0:
        raise Unusable("blank render")
    return flat


def to_jpeg(picture: Image.Image) -> bytes:
    """JPEG of quality 90 without colour subsampling."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90, subsampling=0, optimize=True)
    return file.getvalue()


def thumbnail(picture: Image.Image) -> Thumbnail:
    """24 x 24 x 3 values as one row, uint8 [1728]."""
    small = picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8).reshape(-1)


def alike(thumbnails: Sequence[Thumbnail], sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Number the sets of R pictures that look alike, in chains, by their thumbnails and sizes.

    Two look alike if the root mean square difference of their thumbnails is under 5 and their shapes are the same.
    """
    rows = np.stack(thumbnails).astype(np.float64)
    shapes = np.log(np.asarray(sizes, dtype=np.float64)) @ [1.0, -1.0]
    left, right = radius_neighbors_graph(rows, ALIKE * rows.shape[1] ** 0.5, mode="connectivity").nonzero()
    same = np.abs(shapes[left] - shapes[right]) < SAME_SHAPE
    return connected(len(rows), left[same], right[same]).tolist()
