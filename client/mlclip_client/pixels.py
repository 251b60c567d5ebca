"""The one definition of preprocessing: an image file becomes uint8 pixels, as the encoder wants them.

Training imports this module, the client imports it, and the export copies it verbatim beside the
`preprocess` model, so an image means the same pixels everywhere. It needs Pillow and numpy, runs on
Python 3.10, and imports nothing of mlclip.

On a plain RGB image the result equals open_clip's inference transform (before normalisation) bit for bit.
What open_clip leaves open is fixed here: EXIF orientation is applied (an EXIF block too broken to read is
ignored), transparency is composited on white, 16-bit gray keeps its high byte, and of an animation the first
frame counts. In `shortest` mode a strip more than 64 times as long as wide loses its ends before it is
resized; in `longest` mode no side shrinks below one pixel.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RESIZE_MODES = ("shortest", "longest", "squash")
_NOT_READ = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
"""Pillow hands these to other programs (Ghostscript) or only knows their names: not for crawled files."""
_MAX_ASPECT = 64
"""Beyond this aspect ratio the middle is cut out first: resizing a 1 x 100,000 strip would take gigabytes."""


class ImageError(ValueError):
    """The bytes are no image that can be decoded; the message says why."""


@dataclass(frozen=True)
class PixelSpec:
    """What an encoder wants to see.

    Attributes:
        size: side S of the square picture, in pixels.
        interpolation: `bicubic` or `bilinear`, antialiased.
        resize_mode: `shortest` (resize the short side, crop the centre), `longest` (resize the long side,
            pad with `fill`) or `squash` (ignore the aspect ratio), as open_clip names them.
        fill: gray value 0 to 255 of the padding in `longest` mode.
    """

    size: int
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"image size must be at least 1, not {self.size}")
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ValueError(f"interpolation must be one of {known}, not {self.interpolation!r}")
        if self.resize_mode not in RESIZE_MODES:
            known = ", ".join(RESIZE_MODES)
            raise ValueError(f"resize mode must be one of {known}, not {self.resize_mode!r}")


@functools.cache
def formats() -> tuple[str, ...]:
    """Names of the image formats that are read, in the order in which Pillow tries them."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_READ)


def decode(data: bytes) -> Image.Image:
    """Decode an image file into an upright RGB picture.

    Args:
        data: the file as it is: JPEG, PNG, WebP, GIF, or anything else in `formats()`.

    Raises:
        ImageError: empty, truncated, not an image, or larger than Pillow's `Image.MAX_IMAGE_PIXELS`.
    """
    if not data:
        raise ImageError("the file is empty")
    with _image_errors(), Image.open(io.BytesIO(data), formats=formats()) as image:
        return _upright_rgb(image)


def to_pixels(image: bytes | Image.Image, spec: PixelSpec) -> npt.NDArray[np.uint8]:
    """Turn an image into pixels for the encoder.

    Args:
        image: an image file's bytes, or a picture opened or made with Pillow.
        spec: size, interpolation and resize mode.

    Returns:
        uint8 [S, S, 3], RGB, channels last.

    Raises:
        ImageError: the image cannot be decoded.
    """
    if isinstance(image, bytes):
        picture = decode(image)
    else:
        with _image_errors():
            picture = _upright_rgb(image)
    return np.asarray(_fit(picture, spec), dtype=np.uint8)


@contextlib.contextmanager
def _image_errors() -> Iterator[None]:
    """Everything that Pillow raises on a broken image becomes an ImageError with one readable line."""
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise ImageError(f"the image is too large: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError("not an image in a format that Pillow reads") from error
    except Exception as error:  # broken files raise nearly anything: OSError, SyntaxError, struct.error, ...
        raise ImageError(f"the image is broken: {error}") from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ImageError(f"the image is too large: {image.width} x {image.height} is over {limit} pixels")
    image.load()
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block, which raises nearly anything, says nothing about the picture
        image = image.copy()
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit gray, or 32-bit integers that hold it: Pillow clips it to white
        values = np.asarray(image).astype(np.int64).clip(0, 0xFFFF)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")


def _fit(image: Image.Image, spec: PixelSpec) -> Image.Image:
    """Resize and crop or pad to [S, S], with the roundings of torchvision and open_clip."""
    size, filter_ = spec.size, INTERPOLATIONS[spec.interpolation]
    if spec.resize_mode == "squash":
        return image.resize((size, size), filter_)
    image = _cut_strip(image) if spec.resize_mode == "shortest" else image
    width, height = image.size
    if spec.resize_mode == "longest":
        ratio = max(width, height) / size
        new_size = (max(1, round(width / ratio)), max(1, round(height / ratio)))
    else:
        short = min(width, height)
        new_size = (int(size * width / short), int(size * height / short))
    return _center(image.resize(new_size, filter_), size, spec.fill)


def _cut_strip(image: Image.Image) -> Image.Image:
    width, height = image.size
    longest = _MAX_ASPECT * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def _center(image: Image.Image, size: int, fill: int) -> Image.Image:
    """Crop the centre of what is larger than `size`, pad around what is smaller."""
    width, height = image.size
    if width < size or height < size:
        ground = Image.new("RGB", (max(width, size), max(height, size)), (fill, fill, fill))
        ground.paste(image, (max(0, size - width) // 2, max(0, size - height) // 2))
        image, (width, height) = ground, ground.size
    left, top = int(round((width - size) / 2.0)), int(round((height - size) / 2.0))
    return image.crop((left, top, left + size, top + size))
