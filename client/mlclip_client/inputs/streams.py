"""Files of this machine and of others: opened, unpacked as they come, and read by position."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import IO, cast

import pyarrow as pa  # type: ignore[import-untyped]

from mlclip_client.inputs.stores import is_address, one_line, open_remote

ReadAt = Callable[[int, int], bytes]
"""(offset, size) -> the bytes there; fewer at the end."""

WINDOW = 32 * 2**20
"""Bytes of an unpacked archive that stay in memory: threads ask for its members a little out of order."""
_CHUNK = 256 * 2**10
_MAGIC = ((b"\x1f\x8b", "gzip"), (b"BZh", "bz2"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))


class Broken(OSError):
    """A file is not what it should be; the message is one line."""


def open_place(place: str) -> IO[bytes]:
    """Open a file of this machine, or one that fsspec reaches.

    Raises:
        OSError: it cannot be opened.
        ValueError: fsspec does not know the address, or lacks a package.
    """
    return io.BufferedReader(open_remote(place)) if is_address(place) else open(place, "rb")


def compression(start: bytes) -> str:
    """Tell from a file's first six bytes how it is compressed; empty where it is not."""
    return next((name for magic, name in _MAGIC if start.startswith(magic)), "")


def open_archive(place: str, window: int) -> Direct | Forward:
    """Give what reads an archive by position, in unpacked bytes: by seeking if it is not compressed.

    Args:
        place: the archive's path or address.
        window: see `Forward`.

    Raises:
        OSError: it cannot be opened.
        ValueError: see `open_place`.
    """
    with closing(open_place(place)) as file:
        start = file.read(6)
    return Forward(lambda: open_unpacked(place), window) if compression(start) else Direct(lambda: open_place(place))


@contextmanager
def open_unpacked(place: str) -> Iterator[IO[bytes]]:
    """Open a compressed file, and unpack what it holds as it is read; both are closed when the block ends."""
    with closing(open_place(place)) as file:
        kind = compression(file.read(6))
        file.seek(0)
        with closing(_unpack(file, kind)) as stream:
            yield stream


def _unpack(file: IO[bytes], kind: str) -> IO[bytes]:
    if kind == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if kind == "bz2":
        return cast(IO[bytes], bz2.BZ2File(file))
    if kind == "xz":
        return cast(IO[bytes], lzma.LZMAFile(file))
    if kind == "zstd":
        return cast(IO[bytes], pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
    return file


class Direct:
    """Reads a file that can seek by position; may be used from several threads.

    Args:
        open_file: opens it; called when first read, and again after `close`.
    """

    def __init__(self, open_file: Callable[[], IO[bytes]]) -> None:
        self._open_file = open_file
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None

    def read_at(self, offset: int, size: int) -> bytes:
        """Give `size` bytes at `offset`, fewer at the end; raises OSError."""
        with self._lock:
            if self._file is None:
                self._file = self._open_file()
            self._file.seek(offset)
            return self._file.read(size)

    def close(self) -> None:
        """Close the file; a later read opens it anew."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None


class Forward:
    """Reads a stream that only goes forward by position; may be used from several threads.

    The last `window` bytes stay in memory. What lies before them is read again from the stream's beginning.

    Args:
        open_stream: opens the stream at its beginning; called when first read, and again to go back.
        window: how many bytes are kept at least.
    """

    def __init__(self, open_stream: Callable[[], AbstractContextManager[IO[bytes]]], window: int = WINDOW) -> None:
        self._open_stream, self._window = open_stream, window
        self._lock = threading.Lock()
        self._stream: IO[bytes] | None = None
        self._opened = ExitStack()
        self._kept: deque[bytearray] = deque()
        self._start = self._end = 0

    def read_at(self, offset: int, size: int) -> bytes:
        """Give `size` bytes at `offset`, fewer at the end.

        Raises:
            OSError: the stream cannot be opened, or is broken.
        """
        with self._lock:
            if self._stream is None or offset < self._start:
                self._restart()
            while self._end < offset + size and self._advance(keep_from=offset):
                pass
            return self._cut(offset, offset + size)

    def close(self) -> None:
        """Close the stream and forget what was kept; a later read starts anew."""
        with self._lock:
            self._drop()

    def _restart(self) -> None:
        self._drop()
        self._stream = self._opened.enter_context(self._open_stream())

    def _drop(self) -> None:
        self._opened.close()
        self._stream = None
        self._kept.clear()
        self._start = self._end = 0

    def _advance(self, keep_from: int) -> bool:
        """Read on, by `read1` where there is one: what precedes a break is not lost with it."""
        assert self._stream is not None
        try:
            data = getattr(self._stream, "read1", self._stream.read)(_CHUNK)
        except Exception as error:  # broken archives raise nearly anything: zlib.error, EOFError, LZMAError, ...
            raise Broken(f"the compressed data is broken: {one_line(error)}") from error
        if not self._kept or len(self._kept[-1]) >= _CHUNK:
            self._kept.append(bytearray())
        self._kept[-1] += data
        self._end += len(data)
        while self._end - self._start > self._window and self._start + len(self._kept[0]) <= keep_from:
            self._start += len(self._kept.popleft())
        return bool(data)

    def _cut(self, begin: int, end: int) -> bytes:
        pieces, position = [], self._start
        for chunk in self._kept:
            if position < end and begin < position + len(chunk):
                pieces.append(chunk[max(0, begin - position) : end - position])
            position += len(chunk)
        return b"".join(pieces)
