"""Which columns of a manifest are read, and what one of its values means."""

import os
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mlclip_client.errors import DownloadFailed, Unreadable
from mlclip_client.inputs.item import Item, failed_item, item_at
from mlclip_client.names import LOCAL, PATHS, TEXTS, is_address, is_data_uri, local_file, scheme_of
from mlclip_client.wording import shortened

Holds = Literal["path", "bytes", "url"]
COLUMNS: Mapping[Holds, tuple[str, ...]] = {
    "bytes": ("bytes", "image_bytes", "base64", "image", "jpg", "png"),
    "path": PATHS,
    "url": ("url", "image_url"),
}
"""Known names of columns, in upper or lower case; the first one that is there is taken."""


@dataclass(frozen=True)
class Columns:
    """The columns of a manifest that are read: of images, what that one holds, and of texts, if there is one.

    A column of paths may also hold addresses; a column of addresses holds no paths.
    """

    image: str
    holds: Holds
    text: str | None


def choose_columns(
    strings: Sequence[str], bytes_: Sequence[str], wanted: str | None, others: Mapping[str, str] = MappingProxyType({})
) -> Columns:
    """Choose the columns to read among those of a manifest.

    Names of structs are `image.path`, if they hold only a path, among the strings, `image.bytes` among the bytes.
    `wanted` is the one to take; None: the one whose name is known. `others` has the types of all other columns.

    Raises ValueError if there is none, and the message lists the columns; or if several have the name of one that is
    read.
    """
    every = Counter(map(_plain, [*strings, *bytes_, *others]))

    def only(column: str) -> str:
        if every[_plain(column)] > 1:
            raise ValueError(f"{every[_plain(column)]} columns are called {_plain(column)}: rename all but one")
        return column

    texts = _by_name(strings)
    text = next((only(texts[name]) for name in TEXTS if name in texts), None)
    choices: tuple[tuple[Holds, Sequence[str]], ...] = (("bytes", bytes_), ("path", strings), ("url", strings))
    for holds, names in choices:
        there = _by_name(names)
        for name in COLUMNS[holds] if wanted is None else (wanted.strip().lower(),):
            if name in there:
                return Columns(only(there[name]), holds, text)
    listed = ", ".join([*strings, *bytes_, *(f"{name} ({kind})" for name, kind in others.items())]) or "none"
    if wanted is not None:
        raise ValueError(f"no column {wanted} with paths, addresses or bytes; columns: {listed}")
    raise ValueError(f"no column of paths, addresses or bytes among: {listed}; name it with --column")


def base_of(manifest: str) -> str:
    """Give the folder that a manifest's relative paths start from."""
    return posixpath.dirname(manifest) if is_address(manifest) else os.path.dirname(manifest)


def listed_item(value: object, holds: Holds, base: str, where: str, text: str | None) -> Item:
    """Make the item of a path or an address, as `holds` says, in a manifest or a list; others become failed items.

    Spaces around it are dropped, unless they belong to the name of a file. Relative paths start from `base`; empty:
    from the process's own folder. `where`, `manifest:line`, is the item's path if the value is unusable.
    """
    what, error = ("path", Unreadable) if holds == "path" else ("address", DownloadFailed)
    if value is None or isinstance(value, str) and not value.strip():
        return failed_item(where, f"no {what}", error)
    if not isinstance(value, str):
        return failed_item(where, f"the {what} is not a text: {shortened(repr(value))}", error)
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return failed_item(where, "the name is not a text: it holds half a surrogate pair")
    plain = value.strip()
    scheme = scheme_of(plain)
    if scheme and scheme not in LOCAL:
        return item_at(plain, text)
    if is_data_uri(plain):
        return failed_item(
            where, f"images in data: addresses are read from JSON lines only: {shortened(plain, 40)}", error
        )
    if holds == "url":
        return failed_item(where, f"not an address: {shortened(plain)}", DownloadFailed)
    if not is_address(base):
        return item_at(local_file(value, base), text)
    if scheme or plain.startswith("/"):
        return failed_item(where, f"a manifest from elsewhere names a file of this machine: {shortened(plain)}")
    return item_at(f"{base}/{plain}", text)


def clean_text(text: str) -> str:
    """Give a text that can be written as UTF-8: half a surrogate pair, or a byte that was not UTF-8, becomes `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _plain(column: str) -> str:
    return column.strip().lower().removesuffix(".bytes").removesuffix(".path")


def _by_name(columns: Sequence[str]) -> dict[str, str]:
    return {_plain(name): name for name in columns}
