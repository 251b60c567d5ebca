"""What can be given as an image, and how it becomes the content of a request."""

import os
import stat
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from mlclip_client.errors import BadImage, TooLarge, Unreadable
from mlclip_client.pixels import ImageError, ImageTooLarge, PixelSpec, to_pixels
from mlclip_client.wording import reason_of

ImageLike = bytes | str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]
"""A file's bytes, a path, a Pillow picture, or uint8 pixels [S, S, 3] of the encoder's own size S."""


@dataclass(frozen=True)
class Captioned:
    """An image with its text, if it has one: a title, a caption, or words of the page around it."""

    image: ImageLike
    text: str | None


Loaded = bytes | Image.Image | npt.NDArray[np.uint8]


def source_of(image: ImageLike) -> str | None:
    """Give the path of an image that is a file; None for one in memory."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else None


def load(image: ImageLike, max_bytes: int) -> Loaded:
    """Read the file if the image is a path, see `read_file`; return everything else as it is."""
    if isinstance(image, str | os.PathLike):
        return read_file(image, max_bytes)
    if isinstance(image, bytes):
        check_size(len(image), max_bytes)
    elif not isinstance(image, Image.Image | np.ndarray):
        kind = type(image).__name__
        raise ValueError(f"an image is bytes, a path, a Pillow picture or a uint8 array, not {kind}")
    return image


def pixels_of(image: Loaded, spec: PixelSpec) -> npt.NDArray[np.uint8]:
    """Decode and resize an image on this machine: uint8 [S, S, 3], as the encoder expects it.

    Raises BadImage if the image cannot be decoded, or an array has the wrong shape or type.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.shape != (spec.size, spec.size, 3):
            raise BadImage(
                f"pixels must be uint8 [{spec.size}, {spec.size}, 3], not {image.dtype} {list(image.shape)}; "
                "for other sizes pass PIL.Image.fromarray(pixels)"
            )
        return image
    try:
        return to_pixels(image, spec)
    except ImageError as error:
        raise (TooLarge if isinstance(error, ImageTooLarge) else BadImage)(str(error)) from error


def read_file(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Read a file; raises TooLarge, or Unreadable if it is gone, forbidden or not a regular file."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("not a regular file")
        check_size(status.st_size, max_bytes)
        with open(path, "rb") as file:
            data = file.read(status.st_size + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise Unreadable(reason_of(error)) from error
    check_size(len(data), max_bytes)
    return data


def check_size(size: int, max_bytes: int) -> None:
    """Refuse a file that is too large; raises TooLarge."""
    if size > max_bytes:
        raise TooLarge(f"{size:,} bytes are over the limit of {max_bytes:,}")
