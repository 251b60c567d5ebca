"""From an item to its bytes."""

from __future__ import annotations

import base64
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_to_bytes

from mlclip_client.errors import DownloadFailed, Unreadable
from mlclip_client.images import check_size, read_file
from mlclip_client.inputs.columns import base_of, listed_item
from mlclip_client.inputs.item import Cell, Item
from mlclip_client.inputs.open_files import OpenFiles
from mlclip_client.inputs.parquet import BytesColumn
from mlclip_client.inputs.stores import STORES, download
from mlclip_client.inputs.streams import WINDOW, open_archive, open_place
from mlclip_client.lines import parse_json
from mlclip_client.names import is_data_uri, scheme_of
from mlclip_client.options import Limits
from mlclip_client.wording import reason_of, shortened

if TYPE_CHECKING:
    from mlclip_client.inputs.web.fetch import Web

_USUAL_ALPHABET = str.maketrans("-_", "+/")
_OPEN = 4  # archives and Parquet files that stay open, each with up to 32 MiB of the bytes read last


class Reader(AbstractContextManager["Reader"]):
    """Reads items; may be used from several threads.

    Read the items of one compressed archive or Parquet file in about their order: for an item far back, the file is
    read again from its beginning. The first address raises ValueError if the proxy is unusable.
    """

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008  # frozen
        self._limits = limits
        self._lock = threading.Lock()
        self._files = OpenFiles(_OPEN)
        self._threads = ThreadPoolExecutor(limits.connections, "mlclip-lookup")
        self._web: Web | None = None

    def read(self, item: Item) -> bytes:
        """Give an item's bytes; raises `TooLarge`, `Unreadable`, `DownloadFailed`, or the item's own error."""
        if item.error is not None:
            raise item.error.with_traceback(None)
        if item.kind == "file":
            return read_file(item.place, self._limits.max_bytes)
        if item.kind == "url":
            return self._the_web().fetch(item.place)
        if item.kind == "remote":
            return self._remote(item.place)
        try:
            return self._member(item) if item.cell is None else self._cell(item, item.cell)
        except (OSError, ValueError, LookupError, TypeError) as error:  # the last two: JSON that has changed
            raise Unreadable(reason_of(error)) from error

    def close(self) -> None:
        """Close what is open; downloads that wait for another try end."""
        self._files.close()
        if self._web is not None:
            self._web.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __exit__(self, *_: object) -> None:
        self.close()

    def _member(self, item: Item) -> bytes:
        check_size(item.size, self._limits.max_bytes)
        with self._files.taken(item.place, lambda: open_archive(item.place, WINDOW)) as archive:
            data = archive.read_at(item.offset, item.size)
        if len(data) != item.size:
            raise Unreadable("the archive ends before its member does")
        return data

    def _cell(self, item: Item, cell: Cell) -> bytes:
        data: bytes | str | None
        if item.offset >= 0:
            data = _json_cell(item, cell.column)
        else:
            key = (item.place, cell.column)
            with self._files.taken(key, lambda: BytesColumn(*key)) as column:
                data = column.read(cell.row)
        if isinstance(data, str):
            return self.read(listed_item(data, "path", base_of(item.place), item.path, None))
        if data is None:
            raise Unreadable("the manifest's row holds no bytes")
        check_size(len(data), self._limits.max_bytes)
        return data

    def _remote(self, address: str) -> bytes:
        if scheme_of(address) not in STORES and not self._limits.private:
            raise DownloadFailed(f"{scheme_of(address)}:// may reach private machines; --private allows it")
        task = self._threads.submit(download, address, self._limits.max_bytes)
        try:
            return task.result(self._limits.download_seconds)
        except TimeoutError as error:
            task.cancel()
            raise DownloadFailed(f"not whole within {self._limits.download_seconds:g} s") from error

    def _the_web(self) -> Web:
        with self._lock:
            if self._web is None:
                from mlclip_client.inputs.web.fetch import Web  # slow to import, and many jobs have no address

                self._web = Web(self._limits, self._threads)
            return self._web


def _json_cell(item: Item, column: str) -> bytes | None:
    with open_place(item.place) as file:
        file.seek(item.offset)
        line = file.read(item.size)
    value = parse_json(line.decode("utf-8", "surrogateescape"))[column]
    if isinstance(value, dict):  # as Hugging Face writes images
        value = value.get("bytes")
    if value is None:
        return None
    if not isinstance(value, str):
        raise Unreadable(f"column {column} is not a text: {shortened(repr(value))}")
    try:
        return _decoded(value)
    except ValueError as error:
        raise Unreadable(f"column {column} does not hold base64: {reason_of(error)}") from error


def _decoded(value: str) -> bytes:
    """Decode base64 in its usual or its URL-safe alphabet, padded or not, or a `data:` address (RFC 2397)."""
    if is_data_uri(value):
        kind, comma, value = value.partition(",")
        if not comma:
            raise ValueError("the data: address has no comma")
        if not kind.strip().lower().endswith(";base64"):
            return unquote_to_bytes(value)
        value = unquote(value)
    text = "".join(value.split()).translate(_USUAL_ALPHABET).rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
