"""One input: what its row is called, and where its bytes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["file", "member", "cell", "url", "remote"]


@dataclass(frozen=True)
class Item:
    """One input, in plain values, so that it can be written into a job's plan and sent to another process.

    Strings hold what `encode_path` turns into bytes and `decode_path` back: file names may be no UTF-8.

    Attributes:
        path: what stands in its row. It finds the input again when given to `classify`, or by its archive's path.
        kind: `file` on this machine, `member` of a tar, `cell` of a manifest's bytes column, `url` (http or
            https), `remote` (any other address that fsspec opens).
        place: the file, the archive, the manifest or the address.
        part: name of the archive's member, or `column:row` of the manifest's cell; empty for the others.
        offset: where the member's bytes begin in the archive, unpacked if it is compressed, or a JSON line's in its
            manifest; -1 where that is not known.
        size: of the bytes, or of the JSON line; -1 where that is not known.
        text: its title or caption.
        problem: `kind: message` of what is already known to be wrong with it; then nothing is read.
    """

    path: str
    kind: Kind = "file"
    place: str = ""
    part: str = ""
    offset: int = -1
    size: int = -1
    text: str | None = None
    problem: str = ""


def encode_path(text: str) -> bytes:
    """Give the bytes of a string of an Item, for files whose strings must be UTF-8; `decode_path` reverses it."""
    return text.encode("utf-8", "surrogateescape")


def decode_path(data: bytes) -> str:
    """Give the string again that `encode_path` made bytes of."""
    return data.decode("utf-8", "surrogateescape")


def file_item(path: str, problem: str = "", text: str | None = None) -> Item:
    """Make the item of a file on this machine.

    Args:
        path: as the file system knows it.
        problem: see `Item`.
        text: see `Item`.
    """
    return Item(path, "file", path, text=text, problem=problem)


def shortened(text: str, limit: int = 120) -> str:
    """Cut what a message quotes."""
    return text if len(text) <= limit else f"{text[:limit]}…"
