"""From an item to its bytes, whatever it is."""

from __future__ import annotations

import base64
import binascii
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mlclip_client.errors import BadImage, DownloadFailed, TooLarge, Unreadable
from mlclip_client.images import load
from mlclip_client.inputs.item import Item
from mlclip_client.inputs.limits import Limits
from mlclip_client.inputs.open_files import OpenFiles
from mlclip_client.inputs.parquet import Cells
from mlclip_client.inputs.stores import STORES, locate, one_line, scheme_of
from mlclip_client.inputs.streams import WINDOW, open_archive, open_place

if TYPE_CHECKING:
    from mlclip_client.inputs.web.fetch import Web

_OPEN = 4
"""Archives and Parquet files that stay open, each with up to 32 MiB of what was read of late."""
_ERRORS = {error.kind: error for error in (BadImage, TooLarge, Unreadable, DownloadFailed)}


class Reader:
    """Reads items; may be used from several threads.

    Items of one compressed archive, or of one Parquet file, are best asked for in about their order: what lies far
    back is read again from the beginning.

    Args:
        limits: what may be read.

    Raises:
        ValueError: the limits' proxy makes no sense (when the first address is read).
    """

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008  # frozen
        self._limits = limits
        self._lock = threading.Lock()
        self._shelf = OpenFiles(_OPEN)
        self._threads = ThreadPoolExecutor(limits.connections, "mlclip-lookup")
        self._web: Web | None = None

    def read(self, item: Item) -> bytes:
        """Give an item's bytes.

        Raises:
            BadImage: it cannot be had: `TooLarge`, `Unreadable`, `DownloadFailed`, or what its `problem` says.
        """
        if item.problem:
            raise error_of(item.problem)
        if item.kind == "file":
            return _bytes(load(item.place, self._limits.max_bytes))
        if item.kind == "url":
            return self._the_web().fetch(item.place)
        if item.kind == "remote":
            return self._remote(item.place)
        try:
            return self._member(item) if item.kind == "member" else self._cell(item)
        except (OSError, ValueError) as error:
            raise Unreadable(getattr(error, "strerror", None) or one_line(error)) from error

    def close(self) -> None:
        """Close what is open; downloads that wait for another try end."""
        self._shelf.close()
        if self._web is not None:
            self._web.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _member(self, item: Item) -> bytes:
        self._check(item.size)
        with self._shelf.taken(item.place, lambda: open_archive(item.place, WINDOW)) as archive:
            data = archive.read_at(item.offset, item.size)
        if len(data) != item.size:
            raise Unreadable("the archive ends before its member does")
        return data

    def _cell(self, item: Item) -> bytes:
        column, _, row = item.part.rpartition(":")
        if item.offset >= 0:
            data = _json_cell(item, column)
        else:
            with self._shelf.taken((item.place, column), lambda: Cells(item.place, column)) as cells:
                data = cells.read(int(row))
        if data is None:
            raise Unreadable("the manifest's row holds no bytes")
        self._check(len(data))
        return data

    def _remote(self, address: str) -> bytes:
        if scheme_of(address) not in STORES and not self._limits.private:
            raise DownloadFailed(f"{scheme_of(address)}:// may reach private machines; --private allows it")
        download = self._threads.submit(_download, address, self._limits.max_bytes)
        try:
            return download.result(self._limits.download_seconds)
        except TimeoutError as error:
            download.cancel()
            raise DownloadFailed(f"not whole within {self._limits.download_seconds:g} s") from error

    def _check(self, size: int) -> None:
        if size > self._limits.max_bytes:
            raise TooLarge(f"{size:,} bytes are over the limit of {self._limits.max_bytes:,}")

    def _the_web(self) -> Web:
        with self._lock:
            if self._web is None:
                from mlclip_client.inputs.web.fetch import Web  # slow to load, and many jobs have no address

                self._web = Web(self._limits, self._threads)
            return self._web


def error_of(problem: str) -> BadImage:
    """Give the error that an item's `problem` stands for."""
    kind, _, message = problem.partition(": ")
    return _ERRORS.get(kind, Unreadable)(message or problem)


def _bytes(data: object) -> bytes:
    assert isinstance(data, bytes)
    return data


def _json_cell(item: Item, column: str) -> bytes | None:
    with closing(open_place(item.place)) as file:
        file.seek(item.offset)
        line = file.read(item.size)
    value = json.loads(line)[column]
    if value is None:
        return None
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise Unreadable(f"column {column} does not hold base64: {error}") from error


def _download(address: str, max_bytes: int) -> bytes:
    try:
        fs, path = locate(address)
        size = fs.size(path)
        if size is not None and size > max_bytes:
            raise TooLarge(f"{size:,} bytes are over the limit of {max_bytes:,}")
        data = bytes(fs.cat_file(path))
    except BadImage:
        raise
    except FileNotFoundError as error:
        raise DownloadFailed("no such file") from error
    except Exception as error:  # each store has errors of its own
        raise DownloadFailed(one_line(error)) from error
    if len(data) > max_bytes:
        raise TooLarge(f"{len(data):,} bytes are over the limit of {max_bytes:,}")
    return data
