"""Which columns of a manifest are read, and what one of its values means."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mlclip_client.inputs.item import Item, file_item, shortened
from mlclip_client.inputs.stores import WEB, is_address, scheme_of

Holds = Literal["path", "bytes", "url"]
COLUMNS: Mapping[Holds, tuple[str, ...]] = {
    "bytes": ("bytes", "image_bytes", "base64", "image", "jpg", "png"),
    "path": ("path", "file", "image", "filename", "file_name", "image_path"),
    "url": ("url", "image_url"),
}
"""The names that are known, in upper or lower case; what comes first counts."""
TEXTS = ("text", "caption", "title")
"""The names of what holds texts, in manifests and in the JSON beside an archive's images."""


@dataclass(frozen=True)
class Columns:
    """The columns of a manifest that are read.

    Attributes:
        source: where the image is.
        holds: what stands there. In a column of paths, addresses are taken as well; not the other way round.
        text: column of titles or captions; None if there is none.
    """

    source: str
    holds: Holds
    text: str | None


def choose_columns(
    strings: Sequence[str], bytes_: Sequence[str], wanted: str | None, others: Mapping[str, str] = MappingProxyType({})
) -> Columns:
    """Find the columns to read among those of a manifest.

    Args:
        strings: names of the columns that hold strings.
        bytes_: names of those that hold bytes; a struct's as `image.bytes`.
        wanted: the one to take; None: the one whose name is known.
        others: names of those that hold anything else -> what that is.

    Raises:
        ValueError: there is none; the message lists what there is, but does not name the file.
    """
    texts = {name.strip().lower(): name for name in reversed(strings)}
    text = next((texts[name] for name in TEXTS if name in texts), None)
    for holds, names in (("bytes", bytes_), ("path", strings), ("url", strings)):
        given = {name.strip().lower().removesuffix(".bytes"): name for name in reversed(names)}
        known = COLUMNS[holds] if wanted is None else (wanted.strip().lower(),)  # type: ignore[index]
        for name in known:
            if name in given:
                return Columns(given[name], holds, text)  # type: ignore[arg-type]
    unusable = [f"{name} ({kind})" for name, kind in others.items()]
    there = ", ".join([*strings, *bytes_, *unusable]) or "none"
    if wanted is not None:
        raise ValueError(f"no column {wanted} with paths, addresses or bytes; columns: {there}")
    raise ValueError(f"no column of paths, addresses or bytes among: {there}; name it with --column")


def base_of(manifest: str) -> str:
    """Give the folder that a manifest's relative paths start from."""
    return posixpath.dirname(manifest) if is_address(manifest) else os.path.dirname(manifest)


def place_item(value: object, holds: Holds, base: str, where: str, text: str | None) -> Item:
    """Make the item of a path or an address.

    Args:
        value: what the manifest or the list says.
        holds: `path` or `url`.
        base: see `base_of`; empty: this process's folder.
        where: the line, for what is wrong with it.
        text: see `Item`.
    """
    if not isinstance(value, str) or not value.strip():
        kind, what = ("read", "path") if holds == "path" else ("download", "address")
        is_missing = value is None or isinstance(value, str)
        reason = f"no {what}" if is_missing else f"the {what} is no text: {shortened(repr(value))}"
        return file_item(where, f"{kind}: {reason}")
    if not _can_be_a_name(value):
        return file_item(where, "read: the name is no text: it holds half a surrogate pair")
    scheme = scheme_of(value.strip())
    if scheme in WEB:
        return Item(value.strip(), "url", value.strip(), text=text)
    if holds == "url" and scheme in ("", "file", "local"):
        return file_item(where, f"download: not an address: {shortened(value)}")
    if scheme in ("file", "local"):
        path = local_path(value.strip())
    elif scheme:
        return Item(value.strip(), "remote", value.strip(), text=text)
    else:
        path = value
    if is_address(base):
        if scheme or path.startswith("/"):
            return file_item(where, f"read: a manifest from elsewhere names a file of this machine: {shortened(path)}")
        address = f"{base}/{path}"
        return Item(address, "remote", address, text=text)
    return file_item(os.path.join(base, path), text=text)


def local_path(address: str) -> str:
    """Give the path of a file:// address."""
    from urllib.parse import unquote

    rest = address.partition("://")[2]
    return unquote(rest.removeprefix("localhost"), errors="surrogateescape")


def _can_be_a_name(value: str) -> bool:
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
