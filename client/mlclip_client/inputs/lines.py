"""Lists and manifests as lines: read as they come, none longer than a limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

_BOM = b"\xef\xbb\xbf"
_CHUNK = 64 * 2**10


@dataclass(frozen=True)
class Line:
    """One line of a file.

    Attributes:
        number: counted from 1.
        offset: where it begins in the file, in bytes.
        data: what it holds, with its line end.
        whole: False where it is over the limit; then `data` is its beginning.
    """

    number: int
    offset: int
    data: bytes
    whole: bool

    @property
    def text(self) -> str:
        """Its text without the line end; bytes that are no UTF-8 survive, as in file names."""
        return self.data.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape")


def read_lines(file: IO[bytes], limit: int) -> Iterator[Line]:
    """Give each line as soon as it is there; of a longer one than `limit` bytes only the beginning.

    Args:
        file: read by `readline`, so that a pipe's lines come out one by one.
        limit: in bytes.
    """
    number = offset = 0
    while data := file.readline(limit):
        number += 1
        begin, whole = offset, data.endswith(b"\n") or len(data) < limit
        offset += len(data)
        rest = data
        while not whole and not rest.endswith(b"\n") and (rest := file.readline(limit)):
            offset += len(rest)
        if begin == 0 and data.startswith(_BOM):
            begin, data = len(_BOM), data[len(_BOM) :]
        yield Line(number, begin, data, whole)


def read_names(file: IO[bytes], limit: int, nul: bool) -> Iterator[tuple[int, str | None]]:
    """Give the number and the text of each line of a list; None for one that is longer than `limit` bytes.

    Args:
        file: read so that what comes through a pipe comes out at once.
        limit: in bytes.
        nul: the lines end in NUL, as `find -print0` writes them.
    """
    if nul:
        yield from _between_nuls(file, limit)
        return
    for line in read_lines(file, limit):
        yield line.number, line.text if line.whole else None


def _between_nuls(file: IO[bytes], limit: int) -> Iterator[tuple[int, str | None]]:
    read = getattr(file, "read1", file.read)
    number, begun, too_long = 1, b"", False
    while chunk := read(_CHUNK):
        *ended, begun_next = chunk.split(b"\0")
        for piece in ended:
            begun += piece
            yield number, None if too_long or len(begun) > limit else begun.decode("utf-8", "surrogateescape")
            number, begun, too_long = number + 1, b"", False
        too_long = too_long or len(begun) + len(begun_next) > limit
        begun = b"" if too_long else begun + begun_next
    if begun or too_long:
        yield number, None if too_long else begun.decode("utf-8", "surrogateescape")
