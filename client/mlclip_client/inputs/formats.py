"""What a name says about itself, before anything looks at what it names."""

import functools
from typing import Literal

from PIL import Image

from mlclip_client.names import is_sidecar
from mlclip_client.pixels import formats

Format = Literal["image", "archive", "manifest", "list", "other"]

MANIFESTS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
_SUFFIXES: dict[Format, tuple[str, ...]] = {
    "archive": (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst"),
    "manifest": MANIFESTS,
    "list": (".txt",),
}


def format_of(name: str) -> Format:
    """Tell from the suffix of a path or an address what the file should hold."""
    if is_sidecar(name):
        return "other"
    name = name.lower()
    stem, _, suffix = name.rpartition("/")[2].rpartition(".")
    if stem and f".{suffix}" in image_suffixes():
        return "image"
    return next((format_ for format_, suffixes in _SUFFIXES.items() if name.endswith(suffixes)), "other")


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Give the suffixes, with dot and in lower case, of the formats that `pixels` reads."""
    known = set(formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)
