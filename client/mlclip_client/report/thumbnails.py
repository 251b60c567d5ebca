"""Small pictures for the page, made a pack at a time.

A pack is a list of base64 strings. Packs stand in the page as JSON, or beside it as scripts: a page opened from
a file may load a script of its own folder, but may not read any other file.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, features

from mlclip_client.images import MAX_BYTES, load
from mlclip_client.pixels import decode

SIDE = 160
"""The longer side of a thumbnail, in pixels."""
PER_PACK = 50
Read = Callable[[str], bytes]
"""Gives an image's bytes for a row's path, or raises."""


def local_reader(root: Path) -> Read:
    """Make a function that reads files, relative paths from `root`; backslash, x and two digits may mean a byte."""

    def read(path: str) -> bytes:
        file = root / path
        if "\\x" in path and not file.exists():
            name = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), os.fsencode(path))
            file = root / os.fsdecode(name)
        data = load(file, MAX_BYTES)
        assert isinstance(data, bytes)
        return data

    return read


def make_packs(
    paths: Sequence[str | None],
    read: Read,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[list[str | None]]:
    """Make thumbnails of images, in order, `PER_PACK` at a time: no more are in memory at once.

    Args:
        paths: as in the rows; None has no picture.
        read: gives an image's bytes; what it raises means that there is no picture.
        on_progress: called with images done and images in all.

    Yields:
        base64 of a picture of `mime()`, None for an image that cannot be read.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), PER_PACK):
            pack = list(pool.map(lambda path: _thumbnail(path, read), paths[start : start + PER_PACK]))
            yield pack
            if on_progress:
                on_progress(start + len(pack), len(paths))


def mime() -> str:
    """What thumbnails are: WebP, or JPEG where Pillow was built without it."""
    return "image/webp" if features.check("webp") else "image/jpeg"


def _thumbnail(path: str | None, read: Read) -> str | None:
    if path is None:
        return None
    try:
        picture = decode(read(path))
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
        file = io.BytesIO()
        picture.save(file, mime().removeprefix("image/").upper(), quality=75)
    except Exception:  # whatever a reader of web addresses or archives raises: the page shows a placeholder
        return None
    return base64.b64encode(file.getvalue()).decode("ascii")
