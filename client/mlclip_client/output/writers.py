"""Writers: rows into a Parquet or JSONL file that appears only when it is complete, or JSONL on stdout."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TextIO

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from mlclip_client.files import replacing
from mlclip_client.output.files import partial_name
from mlclip_client.output.rows import Row, fill_embeddings, plain

WriteRow = Callable[[Row], None]
ROW_GROUP_BYTES = 2**20
_TABLE_ROWS = 1024


@contextlib.contextmanager
def open_writer(out: str, schema: pa.Schema, interrupted: Callable[[], bool] = lambda: False) -> Iterator[WriteRow]:
    """Give a function that writes one row.

    A file appears when the block ends, see `replacing`. If the block raises, an earlier file stays.

    Args:
        out: a .parquet or .jsonl path, or `-` for stdout; a device or a pipe of another name gets JSON lines.
        schema: the rows' Arrow schema.
        interrupted: called at the end; if true, the file gets its `partial_name`, and an earlier file stays.
    """
    if out == "-":
        yield _json_writer(sys.stdout)
        return
    path = Path(out)
    with replacing(path, lambda: Path(partial_name(out)) if interrupted() else None) as file:
        if path.suffix.lower() == ".parquet":
            with _parquet_writer(file, schema) as write:
                yield write
        else:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            yield _json_writer(text)
            text.detach()


def _json_writer(file: TextIO) -> WriteRow:
    def write(row: Row) -> None:
        file.write(json.dumps(plain(row), ensure_ascii=False) + "\n")
        file.flush()

    return write


@contextlib.contextmanager
def _parquet_writer(file: IO[bytes], schema: pa.Schema) -> Iterator[WriteRow]:
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

        yield write
        flush()
