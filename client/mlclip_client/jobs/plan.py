"""A job's plan: all inputs in one Parquet file, a row group a shard."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from mlclip_client.inputs.item import Item
from mlclip_client.inputs.stores import is_address
from mlclip_client.output.writers import replacing

_NUMBERS = ("offset", "size")
_NAMES = tuple(field.name for field in fields(Item))
SCHEMA = pa.schema([(name, pa.int64() if name in _NUMBERS else pa.binary()) for name in _NAMES])
"""Texts are bytes here: names of files need not be UTF-8."""


def write_plan(items: Iterable[Item], file: Path, shard_rows: int, on_shard: Callable[[int], None]) -> int:
    """Write all inputs down, a shard at a time, so that they are found from any folder.

    Args:
        items: in the order of the rows to come.
        file: appears when it is complete.
        shard_rows: inputs a shard.
        on_shard: told how many inputs there are so far.

    Returns:
        How many there are.
    """
    count, items = 0, iter(items)
    with replacing(file) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        while shard := list(islice(items, shard_rows)):
            writer.write_table(_table([_findable(item) for item in shard]), row_group_size=shard_rows)
            count += len(shard)
            on_shard(count)
    return count


class Plan:
    """A written plan; may be read from several threads.

    Args:
        file: written by `write_plan`.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._lock = pq.ParquetFile(file), threading.Lock()
        self.shards: int = self._file.metadata.num_row_groups
        self.count: int = self._file.metadata.num_rows

    def items(self, shard: int) -> Iterator[Item]:
        """The inputs of one shard."""
        with self._lock:
            columns = self._file.read_row_group(shard).to_pydict()
        for values in zip(*(columns[name] for name in _NAMES), strict=True):
            yield Item(**{name: _text(value) for name, value in zip(_NAMES, values, strict=True)})

    def rows(self, shard: int) -> int:
        """How many inputs a shard has."""
        rows: int = self._file.metadata.row_group(shard).num_rows
        return rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _findable(item: Item) -> Item:
    # Not `abspath`: behind a link, the `..` of a path leads elsewhere than its words say.
    return item if is_address(item.place) else replace(item, place=os.path.join(os.getcwd(), item.place))


def _table(items: list[Item]) -> pa.Table:
    columns = {name: [_bytes(getattr(item, name)) for item in items] for name in _NAMES}
    return pa.table(columns, schema=SCHEMA)


def _bytes(value: Any) -> Any:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def _text(value: Any) -> Any:
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value
