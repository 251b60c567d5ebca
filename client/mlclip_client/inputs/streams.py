"""Files here and in stores: opened, unpacked as they are read, and read by position."""

import bz2
import gzip
import io
import lzma
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from typing import IO, cast

import pyarrow as pa  # type: ignore[import-untyped]

from mlclip_client.inputs.stores import open_remote
from mlclip_client.names import is_address
from mlclip_client.wording import reason_of

ReadAt = Callable[[int, int], bytes]  # (offset, size) -> the bytes there; fewer at the end

WINDOW = 32 * 2**20
"""Bytes of an unpacked archive that stay in memory, since threads ask for its members slightly out of order."""
_CHUNK = 256 * 2**10
_UNPACKERS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file)),
    b"BZh": lambda file: cast(IO[bytes], bz2.BZ2File(file)),
    b"\xfd7zXZ\x00": lambda file: cast(IO[bytes], lzma.LZMAFile(file)),
    b"\x28\xb5\x2f\xfd": lambda file: cast(IO[bytes], pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")),
}
"""First bytes of a compressed file -> what unpacks it as it is read."""


class Broken(OSError):
    """A file is not what it should be; the message is one line."""


def open_place(place: str) -> IO[bytes]:
    """Open a file at a path or an address; raises OSError, or ValueError as `open_remote` does."""
    return io.BufferedReader(open_remote(place)) if is_address(place) else open(place, "rb")


def open_archive(place: str, window: int) -> "Direct | Forward":
    """Open an archive to read its unpacked bytes by position; `window` as in `Forward`, errors as in `open_place`."""
    with open_place(place) as file:
        start = file.read(max(map(len, _UNPACKERS)))
    unpack = next((unpack for magic, unpack in _UNPACKERS.items() if start.startswith(magic)), None)
    return Direct(open_place(place)) if unpack is None else Forward(partial(_unpacked, place, unpack), window)


@contextmanager
def _unpacked(place: str, unpack: Callable[[IO[bytes]], IO[bytes]]) -> Iterator[IO[bytes]]:
    with open_place(place) as file, closing(unpack(file)) as stream:
        yield stream


class Direct:
    """Reads an open file by seeking; may be used from several threads."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._lock = file, threading.Lock()

    def read_at(self, offset: int, size: int) -> bytes:
        """Give `size` bytes at `offset`, fewer at the end; raises OSError."""
        with self._lock:
            self._file.seek(offset)
            return self._file.read(size)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()


class Forward:
    """Reads a stream by position though it only goes forward; may be used from several threads.

    The last `window` bytes stay in memory. Earlier bytes are read again from the stream's beginning: it is opened
    again.
    """

    def __init__(self, open_stream: Callable[[], AbstractContextManager[IO[bytes]]], window: int = WINDOW) -> None:
        self._open_stream, self._window = open_stream, window
        self._lock = threading.Lock()
        self._stream: IO[bytes] | None = None
        self._opened = ExitStack()
        self._kept: deque[bytearray] = deque()
        self._start = self._end = 0

    def read_at(self, offset: int, size: int) -> bytes:
        """Give `size` bytes at `offset`, fewer at the end; raises OSError."""
        with self._lock:
            if self._stream is None or offset < self._start:
                self._drop()
                self._stream = self._opened.enter_context(self._open_stream())
            while self._end < offset + size and self._advance(keep_from=offset):
                pass
            return self._cut(offset, offset + size)

    def close(self) -> None:
        """Close the stream and forget what was kept; a later read starts from the beginning."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        self._opened.close()
        self._stream = None
        self._kept.clear()
        self._start = self._end = 0

    def _advance(self, keep_from: int) -> bool:
        """Read on, by `read1` if possible, which does not lose the bytes before a break."""
        assert self._stream is not None
        try:
            data = getattr(self._stream, "read1", self._stream.read)(_CHUNK)
        except Exception as error:  # broken archives raise zlib.error, EOFError, LZMAError, …
            raise Broken(f"the compressed data is broken: {reason_of(error)}") from error
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
