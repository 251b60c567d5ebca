"""What a crawl really holds, from file to row through the real server: the right label or the right error."""

import os
import struct
import zlib
from functools import cache

import numpy as np
import pytest
from mlclip_client.wording import printable
from PIL import Image

from .input_files import encoded, rows_of

COLOR = ("--head", "color", "--scores")
RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8))
NAMES = [
    b"plain.png",
    b"two words.png",
    b"line\nbreak.png",
    b"tab\there.png",
    b"-dash.png",
    b"caf\xe9.png",
    "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n\N{SNOWMAN}.png".encode(),
    b"$(reboot).png",
    b"a%20b.png",
    b"[x]*?.png",
    b"#frag?q=1.png",
    b"C:\\photos\\x.png",
    b"x" * 240 + b".png",
]


@cache
def bomb(side):
    """A PNG of that many black pixels a side, one bit each, packed row by row: whole it would fill memory."""
    packer = zlib.compressobj()
    data = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def contents():
    """Name -> bytes, and the kind of error that they must end with, None where they have labels."""
    png, jpeg = encoded(RGB, "PNG"), encoded(RGB, "JPEG")
    gray = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (9, 12), dtype=np.uint16))
    frames = [RGB, RGB.rotate(180), RGB.rotate(90)]
    return {
        "animated.gif": (encoded(RGB, "GIF", save_all=True, append_images=frames), None),
        "animated.webp": (encoded(RGB, "WEBP", save_all=True, append_images=frames), None),
        "cmyk.jpg": (encoded(RGB.convert("CMYK"), "JPEG"), None),
        "gray16.png": (encoded(gray, "PNG"), None),
        "palette.png": (encoded(RGB.convert("P"), "PNG", transparency=0), None),
        "misnamed.jpg": (png, None),
        "one.bmp": (encoded(Image.new("RGB", (1, 1), (9, 200, 9)), "BMP"), None),
        "strip.png": (encoded(Image.new("RGB", (3000, 1), (200, 9, 9)), "PNG"), None),
        "empty.png": (b"", "decode"),
        "page.jpg": (b"<!doctype html><title>404</title>", "decode"),
        "zeros.tiff": (bytes(3000), "decode"),
        "header.png": (png[:40], "decode"),
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "decode"),
        "truncated.png": (png[: len(png) // 2], "decode"),
        "bomb.png": (bomb(40_000), "too large"),
        "large.png": (png + bytes(600_000), "too large"),
        "script.svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "decode"),
    }


@pytest.fixture
def hostile(tmp_path):
    """A folder of all that; gives the expected rows: path -> (data or None, kind)."""
    root = tmp_path / "crawl"
    root.mkdir()
    wanted = {}
    for name, (data, kind) in contents().items():
        (root / name).write_bytes(data)
        wanted[str(root / name)] = (data, kind)
    for number, name in enumerate(NAMES):
        path = os.path.join(os.fsencode(root), name)
        data = encoded(RGB.rotate(7 * number), "PNG")
        with open(path, "wb") as file:
            file.write(data)
        wanted[os.fsdecode(path)] = (data, None)
    (root / "folder.jpg").mkdir()
    (root / "folder.jpg" / "inside.png").write_bytes(encoded(RGB, "PNG"))
    wanted[str(root / "folder.jpg" / "inside.png")] = (encoded(RGB, "PNG"), None)
    (root / "circle").symlink_to(root)
    (root / "once more").symlink_to(root / "folder.jpg")
    (root / "self.png").symlink_to(root / "self.png")
    (root / "gone.png").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe.png")
    wanted |= {str(root / name): (None, "read") for name in ("self.png", "gone.png", "pipe.png")}
    return root, wanted


def check(found, wanted, tiny):
    assert sorted(row["path"] for row in found) == sorted(printable(path) for path in wanted)
    by_path = {row["path"]: row for row in found}
    for path, (data, kind) in wanted.items():
        row = by_path[printable(path)]
        assert row["error_kind"] == kind, (path, row["error"])
        if kind is None:
            scores = tiny.scores(data, "color")
            assert row["answers"]["color"]["all_scores"] == pytest.approx(scores.tolist(), abs=1e-5), path
            assert row["bytes"] == len(data)
        else:
            assert row["answers"] is None and row["error"], path


@pytest.mark.parametrize("via", ["bytes", "pixels"])
@pytest.mark.parametrize("as_job", [False, True], ids=["stream", "job"])
def test_every_file_of_a_crawl_ends_as_its_label_or_its_error(run, server, tiny, hostile, tmp_path, via, as_job):
    root, wanted = hostile
    out = tmp_path / "labels.parquet"
    job = ["--job", tmp_path / "job"] if as_job else []
    asked = ["classify", root, *COLOR, "--out", out, "--url", server.grpc_url, "--via", via, "--max-bytes", 500_000]
    result = run(*asked, *job)
    assert result.exit_code == 3, result.output
    check(rows_of(out), wanted, tiny)


def test_the_same_files_one_by_one_on_stdin(run, server, tiny, hostile, tmp_path):
    """Names with a line break cannot be told in lines; `-print0` tells them."""
    _, wanted = hostile
    out = tmp_path / "labels.parquet"
    names = b"".join(os.fsencode(path) + b"\0" for path in wanted)
    asked = ["classify", "-", "--null", *COLOR, "--out", out, "--url", server.grpc_url, "--max-bytes", 500_000]
    result = run(*asked, input=names)
    assert result.exit_code == 3, result.output
    check(rows_of(out), wanted, tiny)
