"""Writers: rows into a Parquet or JSONL file that appears whole or not at all, or JSONL on stdout."""

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

from mlclip_client.output.rows import Row, plain, with_vectors

WriteRow = Callable[[Row], None]
ROW_GROUP_BYTES = 2**20
_TABLE_ROWS = 1024


def check_target(out: str) -> None:
    """Refuse an output that cannot be written, before any work.

    Raises:
        ValueError: unknown suffix, missing folder, a folder in the place of the file, or a closed stdout.
    """
    if out == "-":
        if sys.stdout is None:
            raise ValueError("--out - stands for stdout, which is closed: write to a .parquet or .jsonl file")
        return
    path = Path(out)
    if path.suffix not in (".parquet", ".jsonl"):
        raise ValueError(f"--out {out}: write to a .parquet or .jsonl file, or to - for JSONL on stdout")
    check_place(path)


def check_place(path: Path) -> None:
    """Refuse a file of --out that cannot be written where it is to be; raises ValueError."""
    if path.is_dir():
        raise ValueError(f"--out {path}: this is a folder")
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"--out {path}: no permission to write into {path.parent}")


def partial_name(out: str) -> str:
    """Where the rows of an interrupted run are: `labels.partial.parquet` for `labels.parquet`."""
    path = Path(out)
    return out if out == "-" else str(path.with_name(f"{path.stem}.partial{path.suffix}"))


@contextlib.contextmanager
def open_writer(out: str, schema: pa.Schema, interrupted: Callable[[], bool] = lambda: False) -> Iterator[WriteRow]:
    """Give a function that writes one row.

    A file is written under a temporary name beside its place and renamed when the block ends; if the block
    raises, it is removed and whatever was in its place stays.

    Args:
        out: a .parquet or .jsonl path, or `-` for stdout.
        schema: the rows' Arrow schema.
        interrupted: asked at the end; then the file gets its `partial_name`, and whatever was in its place stays.
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
    """Give a temporary path whose file takes the place of `path` when the block ends, for good; not if it raises.

    Args:
        path: a file, which need not exist.
        place: where in the same folder it goes instead; asked at the end.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")  # a process number may be taken on another machine
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(place() if place else path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename, too, outlasts a loss of power
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
    """Collect rows into row groups of about 1 MiB: memory stays flat, and the footer, which is kept in it, small.

    Rows become Arrow tables, which take far less room, every 1,024 rows, or sooner when rows are wide.
    """
    waiting: list[Row] = []
    tables: list[pa.Table] = []
    limit = _TABLE_ROWS
    with pq.ParquetWriter(path, schema) as writer:

        def convert() -> None:
            nonlocal limit
            if waiting:
                tables.append(pa.Table.from_pylist(with_vectors(waiting, schema), schema=schema))
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
