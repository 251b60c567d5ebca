"""What a name of the command line stands for, decided once."""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import bracex

from mlclip_client.inputs.formats import format_of
from mlclip_client.inputs.stores import kind_at, match_remote
from mlclip_client.names import LOCAL, WEB, local_path, scheme_of

Kind = Literal["stdin", "file", "folder", "archive", "manifest", "list"]
_MOST_BRACES = 100_000


@dataclass(frozen=True, slots=True)
class Source:
    """Where inputs come from."""

    kind: Kind  # how it is enumerated, see `find`; `file` is an input itself
    scheme: str  # of its address, as `https` or `s3`; empty for this machine
    name: str  # its path or address


def sources_of(name: str) -> Iterator[Source]:
    """Find what a path, an address, a pattern of either, or `-` stands for; raises ValueError if that is nothing."""
    scheme = scheme_of(name)
    if name == "-":
        yield Source("stdin", "", name)
    elif scheme in WEB:
        yield _web(scheme, name)
    elif scheme in LOCAL:
        yield from _stored("", local_path(name))
    else:
        yield from _stored(scheme, name)


def _web(scheme: str, name: str) -> Source:
    if format_of(name.partition("?")[0].partition("#")[0]) in ("archive", "manifest", "list"):
        raise ValueError(f"{name}: archives, manifests and lists are not read from the web: download it first")
    return Source("file", scheme, name)


def _stored(scheme: str, name: str) -> Iterator[Source]:
    if not scheme and "\0" in name:
        raise ValueError(f"{name!r}: no file has a NUL in its name")
    for pattern in [name] if not scheme and os.path.lexists(name) else _without_braces(name):
        source = _existing(scheme, pattern)
        if source is not None:
            yield source
            continue
        is_pattern = glob.has_magic(pattern)
        matches: list[str] = []
        if is_pattern:
            matches = match_remote(pattern) if scheme else sorted(glob.iglob(pattern, recursive=True))
        if not matches:
            what = "nothing matches" if is_pattern else "no such file or folder:"
            raise ValueError(f"{what} {pattern}" + ("" if pattern == name else f" (from {name})"))
        yield from filter(None, (_existing(scheme, match) for match in matches))


def _existing(scheme: str, name: str) -> Source | None:
    kind = kind_at(name) if scheme else _local_kind(name)
    if kind == "":
        return None
    if kind == "folder":
        return Source("folder", scheme, name)
    content = format_of(name) if kind == "file" else "other"
    name = name if scheme else os.fspath(Path(name))
    return Source("file" if content == "image" or content == "other" else content, scheme, name)


def _local_kind(path: str) -> Literal["file", "folder", "special", ""]:
    if os.path.isdir(path):
        return "folder"
    if os.path.isfile(path):
        return "file"
    return "special" if os.path.lexists(path) else ""


def _without_braces(name: str) -> list[str]:
    """What `{a,b}` and `{000..009}` in a name stand for, as in a shell."""
    if "{" not in name:
        return [name]
    try:
        return bracex.expand(name.replace("\\", "\\\\"), limit=_MOST_BRACES)
    except bracex.ExpansionLimitException as error:
        raise ValueError(f"{name}: the braces stand for more than {_MOST_BRACES:,} names") from error
