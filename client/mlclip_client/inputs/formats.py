"""What a name says about itself, before anything looks at what it names."""

from __future__ import annotations

import functools
import re
from typing import Literal
from urllib.parse import unquote

from PIL import Image

from mlclip_client.pixels import formats

Format = Literal["image", "archive", "manifest", "list", "other"]

WEB = frozenset({"http", "https"})
LOCAL = frozenset({"file", "local"})  # schemes of addresses that are paths of this machine
MANIFESTS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
_SUFFIXES: dict[Format, tuple[str, ...]] = {
    "archive": (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst"),
    "manifest": MANIFESTS,
    "list": (".txt",),
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme_of(name: str) -> str:
    """Give what precedes `://`, in lower case; empty for a path."""
    match = _SCHEME.match(name)
    return match.group(1).lower() if match else ""


def is_address(name: str) -> bool:
    """Tell whether a name is an address rather than a path of this machine."""
    return bool(scheme_of(name))


def local_path(address: str) -> str:
    """Give the path in a file:// address."""
    return unquote(address.partition("://")[2].removeprefix("localhost"), errors="surrogateescape")


def format_of(name: str) -> Format:
    """Tell from the suffix of a path or an address what the file should hold."""
    if is_sidecar(name):
        return "other"
    name = name.lower()
    stem, _, suffix = name.rpartition("/")[2].rpartition(".")
    if stem and f".{suffix}" in image_suffixes():
        return "image"
    return next((format_ for format_, suffixes in _SUFFIXES.items() if name.endswith(suffixes)), "other")


def is_sidecar(name: str) -> bool:
    """Tell whether macOS has written a file beside the one that it is named after: `._a.jpg` is no picture."""
    return name.rpartition("/")[2].startswith("._")


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Give the suffixes, with dot and in lower case, of the formats that `pixels` reads."""
    known = set(formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)
