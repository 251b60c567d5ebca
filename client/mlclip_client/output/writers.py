"""Writers: rows into a Parquet or JSONL file that appears only when it is complete, or JSONL on stdout."""

import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, TextIO

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from mlclip_client.errors import ClientError
from mlclip_client.files import is_stream, replacing
from mlclip_client.output.files import partial_name
from mlclip_client.output.rows import Row, fill_embeddings, plain

WriteRow = Callable[[Row], None]
ROW_GROUP_BYTES = 2**20
_LEAST_ROOM = 2**22
_TABLE_ROWS = 1024


@contextlib.contextmanager
def open_writer(out: str, schema: pa.Schema, interrupted: Callable[[], bool] | None = None) -> Iterator[WriteRow]:
    """Give a function that writes one row.

    A file appears when the block ends, see `replacing`. If the block raises, an earlier file stays.

    Args:
        out: a .parquet or .jsonl path, or `-` for stdout; a device or a pipe of another name gets JSON lines.
        schema: the rows' Arrow schema.
        interrupted: called at the end; if true, the file gets its `partial_name`, and an earlier file stays. With it,
            the rows are also kept there if the block raises an expected error, as when the disk is full.
    """
    if out == "-":
        yield _json_writer(sys.stdout)
        return
    path, partial = Path(out), Path(partial_name(out))
    stopped: list[Exception] = []
    with replacing(path, lambda: partial if stopped or interrupted and interrupted() else None) as file:
        with _writer_into(file, path, schema) as write:
            try:
                yield write
            except (ClientError, OSError) as error:
                if interrupted is None or isinstance(error, BrokenPipeError):
                    raise
                stopped.append(error)
    if stopped:
        raise ClientError(f"{stopped[0]}; the rows up to here are in {partial}") from stopped[0]


@contextlib.contextmanager
def _writer_into(file: BinaryIO, path: Path, schema: pa.Schema) -> Iterator[WriteRow]:
    keep_room = _no_room if is_stream(path) else _Room(file).keep
    keep_room()
    if path.suffix.lower() == ".parquet":
        with _parquet_writer(file, schema, keep_room) as write:
            yield write
    else:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        yield _json_writer(text, keep_room)
        text.detach()
    if keep_room is not _no_room:
        file.truncate(file.tell())


def _no_room() -> None:
    """Keep none: pipes, devices and descriptors have no end."""


class _Room:
    """Disk space that a file has ahead of its end, so that it can be completed when the disk is full."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._end = file, 0

    def keep(self) -> None:
        """Make sure that there is enough for the next rows; raises OSError if the disk is full."""
        position = self._file.tell()
        if position + _LEAST_ROOM > self._end:
            try:
                os.posix_fallocate(self._file.fileno(), position, 2 * _LEAST_ROOM)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # where files have no space ahead
                    raise
            self._end = position + 2 * _LEAST_ROOM


def _json_writer(file: TextIO, keep_room: Callable[[], None] = _no_room) -> WriteRow:
    def write(row: Row) -> None:
        file.write(json.dumps(plain(row), ensure_ascii=False) + "\n")
        file.flush()
        keep_room()

    return write


@contextlib.contextmanager
def _parquet_writer(file: IO[bytes], schema: pa.Schema, keep_room: Callable[[], None]) -> Iterator[WriteRow]:
    """Collect rows into row groups of about 1 MiB: memory use stays constant, and the footer small.

    Rows are converted to Arrow tables, which need far less memory, every 1,024 rows, or sooner if rows are wide.
    """
    waiting: list[Row] = []
    tables: list[pa.Table] = []
    limit = _TABLE_ROWS
    with pq.ParquetWriter(file, schema) as writer:

        def convert() -> None:
            nonlocal limit
            if waiting:
                tables.append(pa.Table.from_pylist(fill_embeddings(waiting, schema), schema=schema))
                limit = max(1, min(_TABLE_ROWS, ROW_GROUP_BYTES * len(waiting) // max(1, tables[-1].nbytes)))
                waiting.clear()

        def flush() -> None:
            convert()
            if tables:
                group = pa.concat_tables(tables)
                writer.write_table(group, row_group_size=group.num_rows)
                tables.clear()

        def write(row: Row) -> None:
            waiting.append(row)
            if len(waiting) >= limit:
                convert()
                if sum(table.nbytes for table in tables) >= ROW_GROUP_BYTES:
                    flush()
                    keep_room()

        yield write
        flush()
