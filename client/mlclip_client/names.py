"""What a text in a manifest or a list names: a file of this machine, an address, or the file itself."""

import os
import re
from urllib.parse import unquote

WEB = frozenset({"http", "https"})
LOCAL = frozenset({"file", "local"})
"""Schemes of addresses that are paths of this machine."""
PATHS = ("path", "file", "image", "filename", "file_name", "image_path")
"""Known names of columns of paths; of these and those below, in upper or lower case, the first that is there counts."""
TEXTS = ("text", "caption", "title")
"""Known names of texts, in manifests and in the JSON files beside an archive's images."""
LABEL_STUDIO_FILES = "/data/local-files/?d="
"""What Label Studio puts before the path of a file in a local storage (LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=/)."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme_of(name: str) -> str:
    """Give what precedes `://`, in lower case; empty for a path."""
    match = _SCHEME.match(name)
    return match.group(1).lower() if match else ""


def is_address(name: str) -> bool:
    """Tell whether a name is an address rather than a path of this machine."""
    return bool(scheme_of(name))


def is_data_uri(value: object) -> bool:
    """Tell whether a value is a `data:` address, which holds the file itself."""
    return isinstance(value, str) and value.lstrip()[:5].lower() == "data:"


def local_path(address: str) -> str:
    """Give the path in a file:// address."""
    return unquote(address.partition("://")[2].removeprefix("localhost"), errors="surrogateescape")


def local_file(name: str, base: str) -> str:
    """Give the path of a file from its path, which starts from the folder `base`, or its file:// address.

    Spaces around the name are dropped, and backslashes become slashes, unless a file has them in its name.
    """
    plain = name.strip()
    path = local_path(plain) if is_address(plain) else plain
    ways = [os.path.join(base, way) for way in dict.fromkeys((name, path, path.replace("\\", "/")))]
    return next((way for way in ways if len(ways) > 1 and os.path.lexists(way)), os.path.join(base, path))


def is_sidecar(name: str) -> bool:
    """Tell whether macOS has written a file beside the one that it is named after: `._a.jpg` is no picture."""
    return name.rpartition("/")[2].startswith("._")
