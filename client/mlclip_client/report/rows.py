"""Reads the client's rows batch by batch, from Parquet, JSON lines or a folder of Parquet parts.

A batch is an Arrow struct array with one struct per row, for every format.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from mlclip_client.lines import json_rows
from mlclip_client.output.rows import HeadClasses, read_classes

BATCH = 1024
NAMES, NUMBERS = pa.list_(pa.string()), pa.list_(pa.float32())
Batch = tuple[pa.StructArray, Mapping[str, HeadClasses]]  # rows, and the classes of the heads that their file names


def read_batches(source: Path) -> Iterator[Batch]:
    """Give the rows of a labels file, `BATCH` at a time; raises ValueError.

    It is .parquet or .jsonl, a folder of .parquet parts, which are read in order of name, or a job's folder.
    """
    if source.is_dir():
        folder = source / "labels" if (source / "job.json").is_file() else source
        parts = sorted(folder.glob("*.parquet"))
        if not parts:
            raise ValueError(f"{folder}: no .parquet file in this folder")
        for part in parts:
            yield from _parquet(part)
    elif not source.is_file():
        raise ValueError(f"{source}: {'not a regular file' if source.exists() else 'no such file or folder'}")
    elif source.suffix.lower() == ".parquet":
        yield from _parquet(source)
    elif source.suffix.lower() in (".jsonl", ".ndjson"):
        yield from _json_lines(source)
    else:
        raise ValueError(f"{source}: a report needs a .parquet or .jsonl file that `mlclip-client classify` wrote")


def field(structs: pa.Array, name: str, kind: pa.DataType | None = None) -> pa.Array:
    """Take one field out of structs, null where there is none; raises ValueError if it cannot be cast to `kind`."""
    if not pa.types.is_struct(structs.type) or structs.type.get_field_index(name) < 0:
        return pa.nulls(len(structs), kind or pa.null())
    values = pc.struct_field(structs, name)
    try:
        return values.cast(kind) if kind else values
    except pa.ArrowException as error:
        raise ValueError(f"column {name}: not the client's: {str(error).splitlines()[0]}") from error


def items(lists: pa.Array) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """Take lists apart: which list each item is in, and the items."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(lists)), lengths), pc.list_flatten(lists)


def finite(values: pa.Array) -> npt.NDArray[np.float32]:
    """Give float32 numbers, 0 where they are null or NaN."""
    numbers = pc.fill_null(values, 0.0).to_numpy(zero_copy_only=False)
    return np.nan_to_num(np.asarray(numbers, dtype=np.float32))


def _parquet(path: Path) -> Iterator[Batch]:
    try:
        with pq.ParquetFile(path) as file:
            classes = read_classes(file.schema_arrow)
            for batch in file.iter_batches(batch_size=BATCH):
                yield batch.to_struct_array(), classes
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from error


def _json_lines(path: Path) -> Iterator[Batch]:
    with path.open("rb") as file:
        rows = ((line.number, fields) for line, fields in json_rows(file) if fields is not None)
        while some := list(islice(rows, BATCH)):
            if wrong := [f"{path}:{number}: {fields}" for number, fields in some if isinstance(fields, str)]:
                raise ValueError(wrong[0])
            try:
                yield pa.array([fields for _, fields in some]), {}
            except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
                where = f"{path}, lines {some[0][0]} to {some[-1][0]}"
                raise ValueError(f"{where}: not the client's rows: {str(error).splitlines()[0]}") from error
