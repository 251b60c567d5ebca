"""The pictures behind rows: the bytes that a path leads to, thumbnails of them, and why there is none.

Thumbnails are made a pack at a time. A pack is a list of base64 strings; it stands in the page as JSON, or beside it as
a script: a page opened from a file may load a script of its own folder, but may not read any other file.
"""

import base64
import io
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from PIL import Image, features

from mlclip_client.errors import Unreadable, error_class
from mlclip_client.images import load
from mlclip_client.inputs import Item, Reader, Skipped, find_inputs
from mlclip_client.inputs.formats import format_of
from mlclip_client.names import is_address
from mlclip_client.options import MAX_BYTES, InputOptions
from mlclip_client.pixels import decode
from mlclip_client.wording import printable

SIDE = 160  # the longer side of a thumbnail, in pixels
PER_PACK = 50
Read = Callable[[str], bytes]  # gives an image's bytes for a row's path, or raises
Reason = Literal["memory", "address", "error", "unread"]
"""Why there is no picture: the image came from memory; it is at an address, which is not fetched; its row says that it
cannot be used; it could not be read now."""


class Pictures:
    """Reads the files, members of archives and rows of manifests that rows name; downloads nothing.

    It may be called from several threads, and must be closed. Relative paths start from `root`.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._reader = root, Reader()
        self._lock = threading.Lock()
        self._containers: dict[Path, dict[str, Item]] = {}

    def __call__(self, path: str) -> bytes:
        """Give the bytes; raises BadImage."""
        if is_address(path):
            raise Unreadable("a report fetches nothing from addresses")
        place = self._split(path)
        if place is None:
            return self._file(path)
        container = self._root / path[:place]
        with self._lock:  # a container is listed once
            if container not in self._containers:
                self._containers[container] = _listed(container)
        item = self._containers[container].get(printable(f"{container}{path[place:]}"))
        if item is None:
            raise Unreadable(f"{container} has no such image")
        return self._reader.read(item)

    def close(self) -> None:
        """Close what is open."""
        self._reader.close()

    def _split(self, path: str) -> int | None:
        """Where in a path the name of an archive or a manifest ends; None if it leads into none."""
        for place, letter in enumerate(path):
            if letter == "/" and format_of(path[:place]) == "archive" and (self._root / path[:place]).is_file():
                return place
        manifest, _, row = path.rpartition(":")
        if row.isdecimal() and format_of(manifest) == "manifest" and (self._root / manifest).is_file():
            return len(manifest)
        return None

    def _file(self, path: str) -> bytes:
        r"""Read a file; `\xNN` in its path may stand for a byte."""
        file = self._root / path
        if "\\x" in path and not file.exists():
            name = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), os.fsencode(path))
            file = self._root / os.fsdecode(name)
        data = load(file, MAX_BYTES)
        assert isinstance(data, bytes)
        return data


def make_packs(
    paths: Sequence[str | None], read: Read, on_progress: Callable[[int, int], None] | None = None
) -> Iterator[list[str | None]]:
    """Make thumbnails of images in order, `PER_PACK` at a time; no more are in memory at once.

    They are base64 of a picture of `mime()`, None for a path that is None or cannot be read. `on_progress` is called
    with images done and images in all.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), PER_PACK):
            pack = list(pool.map(lambda path: _thumbnail(path, read), paths[start : start + PER_PACK]))
            yield pack
            if on_progress:
                on_progress(start + len(pack), len(paths))


def mime() -> str:
    """The type of thumbnails: WebP, or JPEG if Pillow was built without it."""
    return "image/webp" if features.check("webp") else "image/jpeg"


def why_missing(path: str | None, kind: str | None, *, fetched: bool) -> Reason:
    """Say why a row with a path and a kind of error has no picture; `fetched`: addresses were read, too."""
    if path is None:
        return "memory"
    if is_address(path) and not fetched:
        return "address"
    return "error" if kind is not None and error_class(kind).input_fault else "unread"


def _listed(container: Path) -> dict[str, Item]:
    """The images in an archive or a manifest, by their paths in rows."""
    try:
        return {printable(item.path): item for item in find_inputs([str(container)], InputOptions(), Skipped())}
    except ValueError:  # a manifest whose column was named by hand
        return {}


def _thumbnail(path: str | None, read: Read) -> str | None:
    if path is None:
        return None
    try:
        picture = decode(read(path))
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
        file = io.BytesIO()
        picture.save(file, mime().removeprefix("image/").upper(), quality=75)
    except Exception:  # readers of addresses and archives may raise anything: the page shows a placeholder
        return None
    return base64.b64encode(file.getvalue()).decode("ascii")
