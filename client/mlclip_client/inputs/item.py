"""One input: what its row is called, and where its bytes are."""

from dataclasses import dataclass
from typing import Literal

from mlclip_client.errors import BadImage, Unreadable
from mlclip_client.names import WEB, scheme_of

Kind = Literal["file", "member", "cell", "url", "remote"]


@dataclass(frozen=True)
class Cell:
    """A cell of a manifest that holds an image."""

    column: str  # its name; `image.bytes` is the field `bytes` of the struct `image`
    row: int  # counted from 1; in JSON lines, the number of the line


@dataclass(frozen=True)
class Item:
    """One input, in values that can be written into a job's plan and sent to another process.

    File names need not be UTF-8; their other bytes are surrogate escapes, as in `os.fsdecode`.
    """

    path: str  # what its row shows. Given to `classify`, it finds the input again, or the archive that holds it.
    # `file` on this machine, `member` of a tar, `cell` of a manifest, `url` (http or https), `remote` (any other
    # address that fsspec opens)
    kind: Kind = "file"
    place: str = ""  # path or address of the file, the archive or the manifest
    member: str = ""  # its name in the archive; empty for other kinds
    cell: Cell | None = None  # where it is in the manifest; None for other kinds
    offset: int = -1  # where its bytes begin in the unpacked archive, or its line in the JSON file; -1 if unknown
    size: int = -1  # length in bytes of the member, or of its JSON line; -1 if unknown
    text: str | None = None  # its title or caption
    error: BadImage | None = None  # what is already known to be wrong; then nothing is read


def item_at(place: str, text: str | None = None) -> Item:
    """Make the item of a whole file at a path or an address."""
    scheme = scheme_of(place)
    return Item(place, "url" if scheme in WEB else "remote" if scheme else "file", place, text=text)


def failed_item(where: str, reason: str, error: type[BadImage] = Unreadable) -> Item:
    """Make the item of something that cannot be read: a file, or `manifest:line`."""
    return Item(where, "file", where, error=error(reason))
