"""What open_clip leaves open has one defined result; what is no image has one clear error."""

import io
import struct
import subprocess
import sys
import warnings
import zlib
from dataclasses import replace

import numpy as np
import pytest
from mlclip_client.pixels import ImageError, PixelSpec, decode, formats, to_pixels
from PIL import Image

from .input_files import encoded

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
SPEC = PixelSpec(8)


def halves(left, right, mode="RGB", size=(8, 8)):
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, size[0], size[1]))
    return image


def color(data, x=0, y=0, spec=SPEC):
    return tuple(to_pixels(data, spec)[y, x])


def with_palette(kind="PNG", **options):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (4, 0, 8, 8))
    return encoded(image, kind, **options)


@pytest.mark.parametrize(
    ("data", "left", "right"),
    [
        (encoded(halves((255, 0, 0, 0), (255, 0, 0, 128), "RGBA")), WHITE, (255, 127, 127)),
        (encoded(halves(RED, BLUE), transparency=RED), WHITE, BLUE),
        (encoded(halves(RED, BLUE).convert("P", palette=Image.Palette.ADAPTIVE)), RED, BLUE),
        (with_palette(transparency=0), WHITE, BLUE),
        (with_palette("GIF", transparency=0), WHITE, BLUE),
        (with_palette(transparency=bytes([128, 255])), (255, 127, 127), BLUE),
    ],
    ids=["alpha", "transparent color", "palette", "transparent PNG palette", "transparent GIF palette", "partly"],
)
def test_transparency_is_composited_on_white(data, left, right):
    assert (color(data, 0), color(data, 7)) == (left, right)


def test_cmyk_equals_pillows_conversion():
    image = halves((0, 255, 255, 0), (255, 255, 0, 0), "CMYK")
    data = encoded(image, "TIFF")
    assert (color(data, 0), color(data, 7)) == (RED, BLUE)
    jpeg = encoded(image, "JPEG", quality=100, subsampling=0)
    with Image.open(io.BytesIO(jpeg)) as opened:
        assert np.array_equal(to_pixels(jpeg, SPEC), np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4, :4] = 255, 0, 0
    upright[4:, 4:] = 0, 0, 255
    undo = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(undo(upright))), "PNG", exif=exif)
    assert np.array_equal(to_pixels(data, SPEC), upright)
    with Image.open(io.BytesIO(data)) as opened:
        assert np.array_equal(to_pixels(opened, SPEC), upright), "a picture opened by the caller"
    assert np.array_equal(to_pixels(decode(data), SPEC), upright), "turned once, not twice"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_cost_the_picture():
    data = encoded(halves(RED, BLUE), exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert (color(data, 0), color(data, 7)) == (RED, BLUE)


@pytest.mark.parametrize(("mode", "value", "gray"), [("L", 77, 77), ("1", 1, 255), ("LA", (0, 128), 127)])
def test_gray_becomes_rgb_and_its_alpha_is_composited_on_white(mode, value, gray):
    assert color(encoded(Image.new(mode, (8, 8), value))) == (gray,) * 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_keeps_its_high_byte(kind):
    values = np.array([[0x00FF, 0x0100, 0x7FFF, 0xFFFF]] * 4, np.uint16)
    pixels = to_pixels(encoded(Image.fromarray(values), kind), PixelSpec(4))
    assert pixels[0, :, 0].tolist() == [0, 1, 127, 255]


def tiff(samples, bits, kind=1, photometric=1, **more):
    """One row of gray samples in a TIFF; `more` are further tags, `t340=1.0` in double precision."""
    tags = {256: len(samples), 257: 1, 258: bits, 259: 1, 262: photometric, 277: 1, 278: 1, 339: kind}
    if bits == 12:
        data = b"".join(struct.pack(">I", (a << 12 | b) << 8)[:3] for a, b in zip(*[iter(samples)] * 2, strict=True))
    else:
        data = struct.pack(f"<{len(samples)}{'f' if kind == 3 else {16: 'H', 32: 'i'}[bits]}", *samples)
    doubles = {int(name[1:]): value for name, value in more.items()}
    end = 8 + 2 + 12 * len({*tags, 273, 279, *doubles}) + 4
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()}
    entries[279] = struct.pack("<HHII", 279, 4, 1, len(data))
    for number, tag in enumerate(doubles):
        entries[tag] = struct.pack("<HHII", tag, 12, 1, end + 8 * number)
    entries[273] = struct.pack("<HHII", 273, 4, 1, end + 8 * len(doubles))
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack(f"<{len(doubles)}d", *doubles.values()) + data


@pytest.mark.parametrize(
    ("data", "grays"),
    [
        (tiff([0.0, 0.5, 1.0, float("nan")], 32, 3, t340=0.0, t341=1.0), [0, 128, 255, 0]),
        (tiff([0, 100, 255, 300], 32, 2, t340=0.0, t341=255.0), [0, 100, 255, 255]),
        (tiff([0, 255, 2048, 4095], 12), [0, 15, 128, 255]),
        (tiff([0, 0x100, 0x8000, 0xFFFF], 16, photometric=0), [255, 254, 127, 0]),
        (b"P5 4 1 4095\n" + struct.pack(">4H", 0, 15, 2048, 4095), [0, 0, 128, 255]),
    ],
    ids=["float", "32 bits", "12 bits", "white is zero", "12 bits of PGM"],
)
def test_wide_gray_is_scaled_by_its_documented_range(data, grays):
    assert to_pixels(data, PixelSpec(4, resize_mode="squash"))[0, :, 0].tolist() == grays


@pytest.mark.parametrize(
    "image",
    [
        tiff([0.0, 0.5, 1.0, 1.0], 32, 3),
        tiff([0, 100, 255, 300], 32, 2),
        b"Pf 1 1 -1.0\n" + struct.pack("<f", 0.5),
        Image.new("I", (2, 2), 255),
        Image.new("F", (2, 2), 1.0),
    ],
    ids=["float", "32 bits", "PFM", "integers of the caller", "floats of the caller"],
)
def test_wide_gray_without_a_range_is_refused_not_guessed(image):
    with pytest.raises(ImageError, match="samples, and nothing says which are black and white: save it with 8 or 16"):
        to_pixels(image, SPEC)


def test_16_bit_rgb_keeps_its_high_byte():
    row = b"\0" + struct.pack(">6H", 0x12FF, 0x3400, 0x5680, 0x12FF, 0x3400, 0x5680)

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 2)) + chunk(b"IEND", b"")
    assert color(b"\x89PNG\r\n\x1a\n" + body, spec=PixelSpec(2)) == (0x12, 0x34, 0x56)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_one_pixel_fills_the_square(mode):
    pixels = to_pixels(encoded(Image.new("RGB", (1, 1), RED)), PixelSpec(8, resize_mode=mode))
    assert (pixels == RED).all()


def test_first_frame_of_an_animation_counts():
    frames = [Image.new("P", (8, 8), index) for index in (1, 2)]
    for frame in frames:
        frame.putpalette([*WHITE, *RED, *BLUE])
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.n_frames == 2
    assert color(data) == RED


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000), (6401, 100), (100, 6401)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_extreme_strips_have_a_result(size, mode):
    pixels = to_pixels(Image.new("RGB", size, RED), PixelSpec(32, resize_mode=mode, fill=255))
    assert pixels.shape == (32, 32, 3)
    assert tuple(pixels[16, 16]) == RED if mode != "longest" else RED in map(tuple, pixels.reshape(-1, 3))


@pytest.mark.parametrize(("width", "resized"), [(127, 2032), (128, 2048), (129, 2048), (100_000, 2048)])
def test_a_strip_is_never_resized_to_more_than_64_squares(width, resized, monkeypatch):
    sizes, real = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, *args, **more: (sizes.append(args[0]), real(self, *args))[1]
    )
    to_pixels(Image.new("RGB", (width, 2), RED), PixelSpec(32))
    assert sizes == [(resized, 32)]


def test_strip_up_to_64_to_1_is_not_cut():
    ramp = np.zeros((2, 128, 3), np.uint8)
    ramp[:, :, 0] = np.arange(128) * 2
    strip = Image.fromarray(ramp)
    whole = strip.resize((32 * 64, 32), Image.Resampling.BICUBIC).crop((1008, 0, 1040, 32))
    assert np.array_equal(to_pixels(strip, PixelSpec(32)), np.asarray(whole))


def test_longer_strip_keeps_its_middle():
    wide = Image.new("RGB", (1000, 2), RED)
    wide.paste(BLUE, (499, 0, 501, 2))
    pixels = to_pixels(wide, PixelSpec(8))
    assert tuple(pixels[4, 4]) == BLUE
    assert np.array_equal(pixels, to_pixels(wide.crop((436, 0, 564, 2)), PixelSpec(8)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"no image at all\n" * 40, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n", "not an image"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:-500], "the image is broken: .*truncated"),
        (encoded(Image.effect_noise((64, 64), 90))[:-1500], "the image is broken: .*truncated"),
        (b"\x89PNG\r\n\x1a\n", "not an image|broken"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "^HEIC, which Pillow does not read: save it as JPEG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), "^JPEG XL, which"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "^SVG, which"),
    ],
)
def test_what_is_no_image_says_so(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode(data)


def test_truncated_picture_of_the_caller_says_so():
    data = encoded(Image.effect_noise((64, 64), 90), "JPEG")[:-500]
    with Image.open(io.BytesIO(data)) as opened, pytest.raises(ImageError, match="truncated"):
        to_pixels(opened, SPEC)


@pytest.mark.parametrize("action", ["error", "ignore"])
def test_too_many_pixels_are_refused_whatever_warnings_do(action, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    data = encoded(Image.new("L", (10, 10)))
    with warnings.catch_warnings(), pytest.raises(ImageError, match="the image is too large"):
        warnings.simplefilter(action)
        decode(data)
    assert to_pixels(encoded(Image.new("L", (9, 11))), SPEC).shape == (8, 8, 3)


PEAK = """
import io, pathlib, sys
from mlclip_client.pixels import decode
from PIL import Image
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
mode, kind, side = sys.argv[1], sys.argv[2], int(sys.argv[3])
file = io.BytesIO()
Image.new(mode, (side, side)).save(file, kind, **({"transparency": bytes(200)} if mode == "P" else {}))
data = file.getvalue()
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = peak()
decode(data)
print((peak() - before) / side**2)
"""


@pytest.mark.parametrize(
    ("mode", "kind"), [("I;16", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("L", "TIFF")]
)
def test_decoding_takes_a_small_multiple_of_the_pixels(mode, kind):
    """In bytes per pixel: the picture as Pillow keeps it, the RGB picture made of it, and a band of rows."""
    command = [sys.executable, "-c", PEAK, mode, kind, "4000"]
    assert float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) < 11


def test_warnings_of_pillow_do_not_reach_the_terminal(tmp_path):
    exif = b"Exif\0\0II*\0\xff\xff\xff\xff garbage"
    (tmp_path / "warns.png").write_bytes(encoded(halves(RED, BLUE), exif=exif))
    (tmp_path / "logs.tif").write_bytes(tiff([0, 0], 16, t277=9.0))
    program = """
import pathlib, sys
from mlclip_client.pixels import ImageError, decode
for file in pathlib.Path(sys.argv[1]).iterdir():
    try:
        decode(file.read_bytes())
    except ImageError:
        pass
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_ghostscript_is_never_called():
    assert "EPS" not in formats()
    assert {"JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"} <= set(formats())


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize(
    ("kind", "size", "turn", "decoded"),
    [
        ("JPEG", (1200, 900), 1, (300, 225)),
        ("JPEG", (900, 1200), 6, (300, 225)),
        ("JPEG", (100, 90), 1, (100, 90)),
        ("PNG", (1200, 900), 1, (1200, 900)),
    ],
)
def test_fast_pixels_are_close_to_the_exact_ones(kind, size, turn, decoded, mode):
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), kind, exif=exif)
    exact = PixelSpec(32, resize_mode=mode)
    fast = replace(exact, decode="fast")
    pictures = [decode(data, spec) for spec in (exact, fast)]
    assert pictures[1].size in (decoded, tuple((side + 1) // 2 for side in decoded)), "longest may shrink further"
    assert (pictures[0].size == pictures[1].size) == (kind == "PNG" or size == (100, 90))
    pair = [to_pixels(data, spec).astype(int) for spec in (exact, fast)]
    assert np.abs(pair[0] - pair[1]).mean() < 3
    assert np.array_equal(*pair) == (size == (100, 90))


@pytest.mark.parametrize("decode_", ["exact", "fast"])
def test_size_limit_is_that_of_the_file(monkeypatch, decode_):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    with pytest.raises(ImageError, match="too large"):
        to_pixels(encoded(Image.new("RGB", (64, 65)), "JPEG"), PixelSpec(4, decode=decode_))


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": 8, "interpolation": "nearest"},
        {"size": 8, "resize_mode": "fit"},
        {"size": 8, "decode": "quick"},
    ],
)
def test_nonsense_specs_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be"):
        PixelSpec(**wrong)
