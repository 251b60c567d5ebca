"""Writers: rows into a Parquet or JSONL file that appears only when it is complete, or JSONL on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO
from uuid import uuid4

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from mlclip_client.output.rows import Row, fill_embeddings, plain

WriteRow = Callable[[Row], None]
ROW_GROUP_BYTES = 2**20
_TABLE_ROWS = 1024


def check_target(out: str) -> None:
    """Raise ValueError if an output cannot be written: called before any work."""
    if out == "-":
        if sys.stdout is None:
            raise ValueError("--out - stands for stdout, which is closed: write to a .parquet or .jsonl file")
        return
    path = Path(out)
    if path.suffix not in (".parquet", ".jsonl"):
        raise ValueError(f"--out {out}: write to a .parquet or .jsonl file, or to - for JSONL on stdout")
    check_place(path)


def check_place(path: Path) -> None:
    """Raise ValueError if a file of --out cannot be written at its path."""
    if path.is_dir():
        raise ValueError(f"--out {path}: this is a folder")
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"--out {path}: no permission to write into {path.parent}")


def partial_name(out: str) -> str:
    """Name the file with the rows of an interrupted run: `labels.partial.parquet` for `labels.parquet`."""
    path = Path(out)
    return out if out == "-" else str(path.with_name(f"{path.stem}.partial{path.suffix}"))


@contextlib.contextmanager
def open_writer(out: str, schema: pa.Schema, interrupted: Callable[[], bool] = lambda: False) -> Iterator[WriteRow]:
    """Give a function that writes one row.

    A file is written under a temporary name in the same folder and renamed when the block ends. If the block raises,
    it is removed, and an earlier file stays.

    Args:
        out: a .parquet or .jsonl path, or `-` for stdout.
        schema: the rows' Arrow schema.
        interrupted: called at the end; if true, the file gets its `partial_name`, and an earlier file stays.
    """
    if out == "-":
        yield _json_writer(sys.stdout)
        return
    path = Path(out)
    with replacing(path, lambda: Path(partial_name(out)) if interrupted() else path) as temporary:
        if path.suffix == ".parquet":
            with _parquet_writer(temporary, schema) as write:
                yield write
        else:
            with temporary.open("w", encoding="utf-8") as file:
                yield _json_writer(file)


@contextlib.contextmanager
def replacing(path: Path, place: Callable[[], Path] | None = None) -> Iterator[Path]:
    """Give a temporary path whose file durably replaces `path` when the block ends, unless the block raises.

    Args:
        path: a file, which need not exist.
        place: gives another name in the same folder; called at the end.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")  # a process id may also exist on another machine
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(place() if place else path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # so that the rename also survives a power failure
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def _json_writer(file: TextIO) -> WriteRow:
    def write(row: Row) -> None:
        file.write(json.dumps(plain(row), ensure_ascii=False) + "\n")
        file.flush()

    return write


@contextlib.contextmanager
def _parquet_writer(path: Path, schema: pa.Schema) -> Iterator[WriteRow]:
    """Collect rows into row groups of about 1 MiB: memory use stays constant, and the footer small.

    Rows are converted to Arrow tables, which need far less memory, every 1,024 rows, or sooner if rows are wide.
    """
    waiting: list[Row] = []
    tables: list[pa.Table] = []
    limit = _TABLE_ROWS
    with pq.ParquetWriter(path, schema) as writer:

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
