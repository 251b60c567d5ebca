"""The one definition of preprocessing: an image file becomes uint8 pixels, as the encoder wants them.

Training imports this module, the client imports it, and the export copies it verbatim beside the
`preprocess` model, so an image means the same pixels everywhere. It needs Pillow and numpy, runs on
Python 3.10, and imports nothing of mlclip.

On a plain RGB image the result equals open_clip's inference transform (before normalisation) bit for bit.
What open_clip leaves open is fixed here: EXIF orientation is applied (an EXIF block too broken to read is
ignored), transparency is composited on white, gray of more than 8 bits is scaled by the range that the file
documents (16 bits keep their high byte; without a range it is refused), and of an animation the first frame
counts. In `shortest` mode a strip more than 64 times as long as wide loses its ends before it is resized; in
`longest` mode no side shrinks below one pixel. Conversions need 4 bytes per pixel besides the decoded picture.
"""

import contextlib
import functools
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RESIZE_MODES = ("shortest", "longest", "squash")
DECODES = ("exact", "fast")
_NOT_READ = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
"""Pillow hands these to other programs (Ghostscript) or only knows their names: not for crawled files."""
_MAX_ASPECT = 64
"""Beyond this aspect ratio the middle is cut out first: resizing a 1 x 100,000 strip would take gigabytes."""
_GAP = 2
"""With `fast`, a picture is shrunk by averages to no less than this many times the size before it is resampled."""
_BAND = 2**20
"""Pixels that are converted at once."""
_S_MIN, _S_MAX, _PHOTOMETRIC, _BITS = 340, 341, 262, 258
"""Tags of TIFF: SMinSampleValue, SMaxSampleValue, PhotometricInterpretation, BitsPerSample."""
_OTHER_FORMATS = {
    "AVIF": rb".{4}ftyp.{0,40}avi[fs]",
    "HEIC": rb".{4}ftyp(he[iv][cmsx]|mif1|msf1)",
    "JPEG XL": rb"\xff\x0a|\x00\x00\x00\x0cJXL ",
    "SVG": rb"\s*(<\?xml[^>]*>\s*)?<svg",
    "PDF": rb"%PDF-",
}
"""How files begin that people take for images, and that Pillow does not read (AVIF: not everywhere)."""

TOO_LARGE = "the image is too large: "

# What Pillow warns of is either an ImageError or no fault of the picture. Filters of the program come first.
warnings.filterwarnings("ignore", module=r"PIL\.", append=True)
logging.getLogger("PIL").addHandler(logging.NullHandler())


class ImageError(ValueError):
    """The bytes are no image that can be decoded; the message says why."""


class ImageTooLarge(ImageError):
    """Decoding the image would need too much memory; the message begins with `TOO_LARGE`."""

    def __init__(self, reason: object) -> None:
        super().__init__(f"{TOO_LARGE}{reason}")


@dataclass(frozen=True)
class PixelSpec:
    """What an encoder wants to see.

    Attributes:
        size: side S of the square picture, in pixels.
        interpolation: `bicubic` or `bilinear`, antialiased.
        resize_mode: `shortest` (resize the short side, crop the centre), `longest` (resize the long side,
            pad with `fill`) or `squash` (ignore the aspect ratio), as open_clip names them.
        fill: gray value 0 to 255 of the padding in `longest` mode.
        decode: `fast` decodes a large JPEG at 1/2, 1/4 or 1/8 of its size and resamples from a smaller picture; the
            pixels differ slightly from `exact`.
    """

    size: int
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill: int = 0
    decode: str = "exact"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"image size must be at least 1, not {self.size}")
        for name, known in (("interpolation", INTERPOLATIONS), ("resize_mode", RESIZE_MODES), ("decode", DECODES)):
            if getattr(self, name) not in known:
                option = name.replace("_", " ")
                raise ValueError(f"{option} must be one of {', '.join(known)}, not {getattr(self, name)!r}")

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> "PixelSpec":
        """Read the parameters of a served model; raises KeyError or ValueError."""
        size, fill, decode = int(parameters["image_size"]), int(parameters["fill"]), parameters.get("decode", "exact")
        return cls(size, parameters["interpolation"], parameters["resize_mode"], fill, decode)


@functools.cache
def formats() -> tuple[str, ...]:
    """Names of the image formats that are read, in the order in which Pillow tries them."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_READ)


def decode(data: bytes, spec: PixelSpec | None = None) -> Image.Image:
    """Decode an image file, as it is, in one of `formats()` into an upright RGB picture.

    `spec` is what the picture is for; with `fast`, it may be smaller than the file's. Raises ImageError for a file that
    is empty, truncated, not an image, or larger than Pillow's `Image.MAX_IMAGE_PIXELS`.
    """
    if not data:
        raise ImageError("the file is empty")
    with _image_errors(data), Image.open(io.BytesIO(data), formats=formats()) as image:
        _check_size(image)
        if spec is not None and spec.decode == "fast":
            image.draft(None, _least_size(image.size, spec))
        return _upright_rgb(image, in_place=True)


def to_pixels(image: bytes | Image.Image, spec: PixelSpec) -> npt.NDArray[np.uint8]:
    """Turn an image file's bytes, or a picture opened or made with Pillow, into pixels for the encoder.

    They are uint8 [S, S, 3], RGB, channels last. Raises ImageError if the image cannot be decoded.
    """
    if isinstance(image, bytes):
        picture = decode(image, spec)
    else:
        with _image_errors():
            _check_size(image)
            picture = _upright_rgb(image, in_place=False)
    return np.asarray(_fit(picture, spec), dtype=np.uint8)


@contextlib.contextmanager
def _image_errors(data: bytes = b"") -> Iterator[None]:
    """Everything that Pillow raises on a broken image becomes an ImageError with one readable line."""
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise ImageTooLarge(error) from error
    except UnidentifiedImageError as error:
        name = next((name for name, start in _OTHER_FORMATS.items() if re.match(start, data[:512], re.DOTALL)), "")
        known = f"{name}, which Pillow does not read: save it as JPEG or PNG"
        raise ImageError(known if name else "not an image in a format that Pillow reads") from error
    except Exception as error:  # broken files raise nearly anything: OSError, SyntaxError, struct.error, ...
        raise ImageError(f"the image is broken: {error}") from error


def _check_size(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ImageTooLarge(f"{image.width} x {image.height} is over {limit} pixels")


def _least_size(size: tuple[int, int], spec: PixelSpec) -> tuple[int, int]:
    """The width and height to which a picture may shrink before it is resampled."""
    least = _GAP * spec.size
    if spec.resize_mode != "longest":
        return least, least
    width, height = (max(1, side * least // max(size)) for side in size)
    return width, height


def _upright_rgb(image: Image.Image, in_place: bool) -> Image.Image:
    image.load()
    to_gray = _to_gray(image) if image.mode.startswith(("I", "F")) else None
    with contextlib.suppress(Exception):  # a broken EXIF block raises nearly anything, and says nothing of the picture
        if in_place:
            ImageOps.exif_transpose(image, in_place=True)
        else:
            image = ImageOps.exif_transpose(image)
    if to_gray is not None:
        return _by_bands(image, "L", to_gray).convert("RGB")
    if image.has_transparency_data:
        return _by_bands(image, "RGB", _on_white)
    return image if image.mode == "RGB" else _by_bands(image, "RGB", lambda band: band.convert("RGB"))


def _by_bands(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert a picture a band of rows at a time, so that no intermediate copy of it fills the memory."""
    made, rows = Image.new(mode, image.size), max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        made.paste(convert(image.crop(box)), box)
    return made


def _on_white(band: Image.Image) -> Image.Image:
    layer = band.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _to_gray(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """How samples of more than 8 bits become 8 bits: the range from black to white has 256 steps."""
    tags = getattr(image, "tag_v2", {})
    low, high = _sample_range(image, tags)
    inverted = tags.get(_PHOTOMETRIC) == 0

    def convert(band: Image.Image) -> Image.Image:
        steps = np.nan_to_num((np.asarray(band).astype(np.float64) - low) * (256 / (high - low))).clip(0, 255)
        return Image.fromarray(steps.astype(np.uint8) ^ (0xFF if inverted else 0))

    return convert


def _sample_range(image: Image.Image, tags: Any) -> tuple[float, float]:
    """The values of black and white, as the file or its format documents them; raises ImageError if neither does."""
    if _S_MIN in tags and _S_MAX in tags:
        low, high = float(np.min(tags[_S_MIN])), float(np.max(tags[_S_MAX]))
        if low < high:
            return low, high
    if image.mode.startswith("I;16") and image.format == "TIFF":
        return 0, 2 ** int(np.max(tags.get(_BITS, 16))) - 1
    sixteen = {"I;16": (None, "PNG", "PPM", "JPEG2000"), "I": ("PNG", "PPM")}  # Pillow keeps 16 bits in 32, too
    if image.format in sixteen.get(image.mode[:4], ()):
        return 0, 0xFFFF
    kind = "floating-point" if image.mode == "F" else "wide integer"
    raise ImageError(f"{kind} samples, and nothing says which are black and white: save it with 8 or 16 bits, unsigned")


def _fit(image: Image.Image, spec: PixelSpec) -> Image.Image:
    """Resize and crop or pad to [S, S], with the roundings of torchvision and open_clip."""
    size, filter_ = spec.size, INTERPOLATIONS[spec.interpolation]
    gap = _GAP if spec.decode == "fast" else None
    if spec.resize_mode == "squash":
        return image.resize((size, size), filter_, reducing_gap=gap)
    if spec.resize_mode == "longest":
        width, height = (max(1, round(side / (max(image.size) / size))) for side in image.size)
    else:
        image = _cut_strip(image)
        width, height = (int(size * side / min(image.size)) for side in image.size)
    return _center(image.resize((width, height), filter_, reducing_gap=gap), size, spec.fill)


def _cut_strip(image: Image.Image) -> Image.Image:
    width, height = image.size
    longest = _MAX_ASPECT * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = (max(0, side - longest) // 2 for side in image.size)
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def _center(image: Image.Image, size: int, fill: int) -> Image.Image:
    """Crop the centre of what is larger than `size`, pad around what is smaller."""
    ground = Image.new("RGB", (size, size), (fill, fill, fill))
    left, top = ((size - side) // 2 if side < size else -round((side - size) / 2) for side in image.size)
    ground.paste(image, (left, top))
    return ground
