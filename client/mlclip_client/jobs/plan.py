"""A job's plan: all inputs in one Parquet file, one row group per shard."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from mlclip_client.errors import KINDS, BadImage
from mlclip_client.files import replacing
from mlclip_client.inputs.item import Cell, Item
from mlclip_client.names import is_address

_STRINGS = ("path", "kind", "place", "member", "text", "column", "error_kind", "error")
_NUMBERS = ("offset", "size", "row")
SCHEMA = pa.schema([(name, pa.binary()) for name in _STRINGS] + [(name, pa.int64()) for name in _NUMBERS])
"""Strings are bytes, since file names need not be UTF-8."""
_ERRORS = {kind: error for kind, error in KINDS.items() if issubclass(error, BadImage)}


def write_plan(items: Iterable[Item], file: Path, shard_rows: int, on_shard: Callable[[int], None]) -> int:
    """Write all inputs, shard by shard, with absolute paths, so that they are found from any folder; give their number.

    The file appears when it is complete. `on_shard` is called with the number of inputs so far.
    """
    count, items = 0, iter(items)
    with replacing(file) as output, pq.ParquetWriter(output, SCHEMA) as writer:
        while shard := [_record(item) for item in islice(items, shard_rows)]:
            writer.write_table(pa.Table.from_pylist(shard, schema=SCHEMA), row_group_size=shard_rows)
            count += len(shard)
            on_shard(count)
    return count


class Plan:
    """A written plan; may be read from several threads."""

    def __init__(self, file: Path) -> None:
        self._file, self._lock = pq.ParquetFile(file), threading.Lock()
        self.shards: int = self._file.metadata.num_row_groups
        self.count: int = self._file.metadata.num_rows

    def items(self, shard: int) -> Iterator[Item]:
        """The inputs of one shard."""
        with self._lock:
            records = self._file.read_row_group(shard).to_pylist()
        return map(_item, records)

    def rows(self, shard: int) -> int:
        """How many inputs a shard has."""
        rows: int = self._file.metadata.row_group(shard).num_rows
        return rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _record(item: Item) -> dict[str, Any]:
    # Not `abspath`: behind a link, the `..` of a path may lead to another folder.
    place = item.place if is_address(item.place) else os.path.join(os.getcwd(), item.place)
    values = {**vars(item), "place": place}
    if item.cell is not None:
        values |= vars(item.cell)
    if item.error is not None:
        values |= {"error_kind": item.error.kind, "error": str(item.error)}
    return {name: _bytes(values.get(name)) for name in SCHEMA.names}


def _item(record: dict[str, Any]) -> Item:
    values = {name: _text(value) for name, value in record.items()}
    column, row, kind, reason = (values.pop(name) for name in ("column", "row", "error_kind", "error"))
    cell = None if column is None else Cell(column, row)
    return Item(**values, cell=cell, error=None if kind is None else _ERRORS[kind](reason))


def _bytes(value: Any) -> Any:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def _text(value: Any) -> Any:
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value
