"""Reads the client's rows, from Parquet, JSON lines or a folder of Parquet parts, batch by batch.

A batch is an Arrow struct array, one struct a row, whatever the file was. Columns are taken by name: what is
absent, or null all through, is None, so files of older and newer clients both work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

BATCH = 1024


def read_batches(source: Path, limit: int) -> Iterator[pa.StructArray]:
    """Give the first rows of a labels file.

    Args:
        source: a .parquet or .jsonl file, a folder of .parquet parts, which are read by name, or a job's folder.
        limit: how many rows at most.

    Raises:
        ValueError: there is no such file, it is of another kind, or it cannot be read.
    """
    left = limit
    for batch in _all_batches(source):
        yield batch[:left]
        left -= min(left, len(batch))
        if not left:
            return


def field(structs: pa.StructArray, name: str) -> pa.Array | None:
    """Take one field out of structs, null where its struct is null; None where there is no such field."""
    if not pa.types.is_struct(structs.type) or structs.type.get_field_index(name) < 0:
        return None
    values = pc.struct_field(structs, name)
    return None if pa.types.is_null(values.type) else values


def items(lists: pa.Array) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """Take lists apart: the number of the list that each item is in, and the items."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(lists)), lengths), pc.list_flatten(lists)


def floats(values: pa.Array) -> npt.NDArray[np.float32]:
    """Give numbers as float32, 0 where they are null."""
    numbers = pc.fill_null(values.cast(pa.float32()), 0.0).to_numpy(zero_copy_only=False)
    return np.nan_to_num(np.asarray(numbers, dtype=np.float32))


def _all_batches(source: Path) -> Iterator[pa.StructArray]:
    if source.is_dir():
        folder = source / "labels" if (source / "job.json").is_file() else source
        parts = sorted(folder.glob("*.parquet"))
        if not parts:
            raise ValueError(f"{folder}: there is no .parquet file in this folder")
        for part in parts:
            yield from _parquet(part)
    elif not source.is_file():
        raise ValueError(f"{source}: there is no such file or folder")
    elif source.suffix.lower() == ".parquet":
        yield from _parquet(source)
    elif source.suffix.lower() in (".jsonl", ".ndjson"):
        yield from _json_lines(source)
    else:
        raise ValueError(f"{source}: a report is made of a .parquet or .jsonl file, as `mlclip-client classify` writes")


def _parquet(path: Path) -> Iterator[pa.StructArray]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                yield batch.to_struct_array()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file that can be read: {str(error).splitlines()[0]}") from error


def _json_lines(path: Path) -> Iterator[pa.StructArray]:
    with path.open(encoding="utf-8-sig") as lines:
        numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
        try:
            while some := list(islice(numbered, BATCH)):
                rows = [_json_row(path, number, line) for number, line in some]
                try:
                    yield pa.array(rows)
                except (pa.ArrowException, UnicodeEncodeError) as error:
                    where = f"{path}, lines {some[0][0]} to {some[-1][0]}"
                    raise ValueError(f"{where}: not the client's rows: {str(error).splitlines()[0]}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8") from error


def _json_row(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}:{number}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{path}:{number}: not a JSON object")
    return row
