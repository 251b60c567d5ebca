"""Parquet files that name images by paths or addresses, or that hold the images themselves."""

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from itertools import accumulate, repeat
from typing import IO, Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from mlclip_client.inputs.columns import Columns, base_of, choose_columns, listed_item
from mlclip_client.inputs.item import Cell, Item, failed_item
from mlclip_client.inputs.streams import WINDOW, Broken, open_place
from mlclip_client.wording import reason_of, shortened

_ROWS = 1024
_BUFFER = 2**20
_CELLS = 16  # images that are read at once
_MOST_KEPT = 4096


def parquet_items(file: IO[bytes], name: str, column: str | None) -> Iterator[Item]:
    """Give an item for each row; a damaged row group costs only its own rows, which become items with an error.

    Raises ValueError before the first item if the file is not Parquet or has no column to take.
    """
    parquet = _opened(file)
    strings, bytes_, others = _columns(parquet.schema_arrow)
    columns, base, first = choose_columns(strings, bytes_, column, others), base_of(name), 1
    for group in range(parquet.num_row_groups):
        row, after = first, first + parquet.metadata.row_group(group).num_rows
        try:
            for value, text in _rows(parquet, group, columns):
                where = f"{name}:{row}"
                if columns.holds == "bytes":
                    item = Item(where, "cell", name, cell=Cell(columns.image, row), text=text)
                else:
                    item = listed_item(value, columns.holds, base, where, text)
                row += 1
                yield item
        except (pa.ArrowException, OSError) as error:
            for damaged in range(row, after):
                yield failed_item(f"{name}:{damaged}", f"the Parquet file is damaged: {reason_of(error)}")
        first = after


def _opened(file: Any) -> Any:
    try:
        return pq.ParquetFile(file, buffer_size=_BUFFER)  # without it whole row groups come into memory
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a Parquet file that can be read: {reason_of(error)}") from error


def _columns(schema: pa.Schema) -> tuple[list[str], list[str], dict[str, str]]:
    """Names of the columns of strings, of those of bytes (also in structs, as Hugging Face writes), types of others."""
    strings, bytes_, others = [], [], {}
    for column in schema:
        inner = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        parts = {part.name: part.type for part in inner} if pa.types.is_struct(inner) else {}
        if _is_string(inner):
            strings.append(column.name)
        elif _is_bytes(inner):
            bytes_.append(column.name)
        elif "bytes" in parts and _is_bytes(parts["bytes"]):
            bytes_.append(f"{column.name}.bytes")
        elif "path" in parts and _is_string(parts["path"]):
            strings.append(f"{column.name}.path")
        else:
            others[column.name] = shortened(str(column.type), 40)
    return strings, bytes_, others


def _is_string(type_: pa.DataType) -> bool:
    return type_ in (pa.string(), pa.large_string(), pa.string_view())


def _is_bytes(type_: pa.DataType) -> bool:
    return type_ in (pa.binary(), pa.large_binary(), pa.binary_view()) or bool(pa.types.is_fixed_size_binary(type_))


def _rows(parquet: Any, group: int, columns: Columns) -> Iterator[tuple[str | None, str | None]]:
    """Path or address, and text, of each row; the bytes of images are not read."""
    source = None if columns.holds == "bytes" else columns.image
    wanted = [name for name in (source, columns.text) if name is not None]
    if not wanted:
        yield from repeat((None, None), parquet.metadata.row_group(group).num_rows)
        return
    for batch in parquet.iter_batches(_ROWS, row_groups=[group], columns=wanted, use_threads=False):
        sources = repeat(None) if source is None else _strings(_column(batch, source), "surrogateescape")
        texts = repeat(None) if columns.text is None else _strings(batch.column(columns.text), "replace")
        for _, value, text in zip(range(batch.num_rows), sources, texts, strict=False):
            yield value, text or None


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    struct, _, part = name.rpartition(".")
    return batch.column(name) if name in batch.schema.names else batch.column(struct).field(part)


def _strings(array: pa.Array, errors: str) -> list[str | None]:
    """The strings of a column, which may not be UTF-8 though Arrow promises it."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return [
        None if data is None else data.decode("utf-8", errors) for data in array.cast(pa.large_binary()).to_pylist()
    ]


class BytesColumn:
    """Reads a column of bytes row by row; may be used from several threads, in about the order of the rows.

    Where a struct holds no bytes, its path is given.

    The last rows that were read stay in memory, up to 32 MiB. Earlier rows are read again from the file.
    """

    def __init__(self, name: str, column: str) -> None:
        self._name, self._column = name, column
        self._path = column.removesuffix(".bytes") + ".path"
        self._lock = threading.Lock()
        self._file: Any = None
        self._parquet: Any = None
        self._batches: Iterator[Any] = iter(())
        self._kept: deque[bytes | str | None] = deque()
        self._first = self._size = 0
        self._ends: list[int] = []

    def read(self, row: int) -> bytes | str | None:
        """Give the bytes of a row, counted from 1; None if it is null. Raises OSError or ValueError."""
        with self._lock:
            try:
                return self._read(row - 1)
            except (pa.ArrowException, OSError) as error:
                self._drop()
                if isinstance(error, OSError):
                    raise
                raise Broken(f"the Parquet file is damaged: {reason_of(error)}") from error

    def close(self) -> None:
        """Close the file and forget what was kept; a later read opens it again."""
        with self._lock:
            self._drop()

    def _read(self, row: int) -> bytes | str | None:
        if self._file is None:
            self._open()
        if not 0 <= row < (self._ends[-1] if self._ends else 0):
            raise Broken(f"the file has no row {row + 1:,}")
        after = self._first + len(self._kept)
        group = self._group(row)
        if row < self._first or (row >= after and group > self._group(after)):
            self._start(group)
        while row >= self._first + len(self._kept):
            self._advance(row)
        return self._kept[row - self._first]

    def _open(self) -> None:
        self._file = open_place(self._name)
        self._parquet = _opened(self._file)
        groups = range(self._parquet.num_row_groups)
        self._ends = list(accumulate(self._parquet.metadata.row_group(group).num_rows for group in groups))
        self._start(0)

    def _group(self, row: int) -> int:
        return bisect_right(self._ends, row)

    def _start(self, group: int) -> None:
        groups = list(range(group, len(self._ends)))
        columns = [self._column, self._path]
        self._batches = self._parquet.iter_batches(_CELLS, row_groups=groups, columns=columns)
        self._kept.clear()
        self._first, self._size = (self._ends[group - 1] if group else 0), 0

    def _advance(self, row: int) -> None:
        batch = next(self._batches, None)
        if batch is None:
            raise Broken(f"the file has no row {row + 1:,}")
        cells: list[bytes | str | None] = _column(batch, self._column).to_pylist()
        if pa.types.is_struct(struct := batch.schema.field(0).type) and struct.get_field_index("path") >= 0:
            paths = _strings(_column(batch, self._path), "surrogateescape")
            cells = [path if data is None else data for data, path in zip(cells, paths, strict=True)]
        for data in cells:
            self._kept.append(data)
            self._size += len(data or b"")
        while self._first < row and self._kept and (self._size > WINDOW or len(self._kept) > _MOST_KEPT):
            self._size -= len(self._kept.popleft() or b"")
            self._first += 1

    def _drop(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._parquet, self._batches = None, None, iter(())
        self._kept.clear()
        self._first = self._size = 0
