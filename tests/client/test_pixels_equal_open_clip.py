"""On plain RGB images, preprocessing equals open_clip's inference transform bit for bit."""

import functools
import io
import random

import numpy as np
import pytest
import torch
from mlclip_client.pixels import PixelSpec, to_pixels
from open_clip.transform import image_transform
from PIL import Image

from .input_files import encoded


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Many tiny tensors: threads only cost."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


MODES = ("shortest", "longest", "squash")
INTERPOLATIONS = ("bicubic", "bilinear")


def picture(width, height, seed=0):
    """Noise over a gradient: every resampling weight shows in the result."""
    noise = np.random.default_rng(seed).integers(0, 128, (height, width, 3))
    rows, columns = np.mgrid[0:height, 0:width]
    ramp = (rows * 64 // height + columns * 63 // width)[..., None]
    return Image.fromarray((noise + ramp).astype(np.uint8))


@functools.cache
def picture_file(width, height, seed, kind):
    return encoded(picture(width, height, seed), kind, **({"compress_level": 1} if kind == "PNG" else {}))


def open_clip_pixels(data, spec):
    transform = image_transform(
        spec.size,
        is_train=False,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        resize_mode=spec.resize_mode,
        interpolation=spec.interpolation,
        fill_color=spec.fill,
    )
    with Image.open(io.BytesIO(data)) as image:
        return (transform(image) * 255).round().byte().permute(1, 2, 0).numpy()


def open_clip_can(width, height, spec):
    """open_clip's `longest` mode rounds a thin side to zero pixels and fails."""
    return spec.resize_mode != "longest" or round(min(width, height) * spec.size / max(width, height)) >= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_200_random_sizes(mode, interpolation, kind):
    compared, sizes = 0, random.Random(20)
    for number in range(200):
        width, height = sizes.randint(1, 300), sizes.randint(1, 300)
        spec = PixelSpec(random.Random(number).choice((31, 64, 96, 224)), interpolation, mode)
        if max(width, height) > 64 * min(width, height) or not open_clip_can(width, height, spec):
            continue
        data = picture_file(width, height, number, kind)
        assert np.array_equal(to_pixels(data, spec), open_clip_pixels(data, spec)), (width, height, spec)
        compared += 1
    assert compared > 180


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "size", [(65, 64), (67, 64), (64, 67), (63, 200), (201, 63), (129, 128), (64, 64), (2, 3), (1, 1)]
)
@pytest.mark.parametrize("target", [63, 64, 65])
def test_odd_crops(size, target, mode):
    data = encoded(picture(*size), "PNG")
    spec = PixelSpec(target, "bicubic", mode, fill=0)
    assert np.array_equal(to_pixels(data, spec), open_clip_pixels(data, spec))


@pytest.mark.parametrize("fill", [0, 127, 255])
def test_padding_takes_the_fill_value(fill):
    data = encoded(picture(90, 41), "PNG")
    spec = PixelSpec(64, "bicubic", "longest", fill)
    result = to_pixels(data, spec)
    assert np.array_equal(result, open_clip_pixels(data, spec))
    assert (result[0] == fill).all()


def test_progressive_and_subsampled_jpeg():
    data = encoded(picture(150, 101), "JPEG", progressive=True, quality=60, subsampling=2)
    assert np.array_equal(to_pixels(data, PixelSpec(64)), open_clip_pixels(data, PixelSpec(64)))
