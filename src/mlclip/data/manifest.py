"""Manifests: CSV, JSON lines and Parquet in, JSON lines out.

A broken line becomes a problem with its number, and reading goes on. Lines count from 1 with the header;
of Parquet, rows count from 1.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from mlclip.data.dataset import Dataset, Item
from mlclip.data.problems import Problem
from mlclip.data.rows import COLUMNS, Fields, known_columns, to_item
from mlclip.errors import DataError

Row = tuple[int, Fields | DataError]


def read_manifest(path: Path, root: Path, separator: str = "|") -> tuple[list[Item], list[Problem]]:
    """Read a manifest of any of the three formats; the suffix says which.

    Args:
        path: `.csv`, `.tsv`, `.jsonl` (also `.ndjson`) or `.parquet`.
        root: folder that relative image paths start from.
        separator: what stands between labels that come as one string.

    Returns:
        The items, and a problem for every line that is none.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path}: a manifest ends in {', '.join(READERS)}; COCO annotations end in .json")
    items: list[Item] = []
    problems: list[Problem] = []
    try:
        for line, fields in read(path, root):
            where = f"{path}:{line}"
            try:
                if isinstance(fields, DataError):
                    raise fields
                items.append(to_item(fields, where, root, separator))
            except DataError as error:
                problems.append(Problem(where, str(error)))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{_first_undecodable_line(path)}: not UTF-8: save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return items, problems


def write_manifest(dataset: Dataset, path: Path) -> None:
    """Write a dataset as JSON lines: path, labels, split, text, group, sha256; what is unknown is left out.

    Image paths are relative to the manifest, with forward slashes. The file appears whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    folder_of = cache(Path.resolve)
    base = folder_of(path.parent)
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8", newline="\n") as file:
            for item in dataset.items:
                image = Path(os.path.relpath(folder_of(item.path.parent) / item.path.name, base))
                row = {"path": image.as_posix(), "labels": list(item.labels), "split": item.split}
                row |= {"text": item.text, "group": item.group, "sha256": item.sha256}
                known = {name: value for name, value in row.items() if value is not None}
                file.write(json.dumps(known, ensure_ascii=False) + "\n")
        part.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def _first_undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        for line, data in enumerate(file, start=1):
            try:
                data.decode("utf-8")
            except UnicodeDecodeError:
                return line
    return 1


def _csv_rows(path: Path, root: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        records = _csv_records(reader)
        first = next(records, None)
        if first is None:
            raise DataError(f"{path}: the file is empty")
        if isinstance(first[1], DataError):
            yield first[0], first[1]
            return
        header = _header(path, first[1], root)
        if header is None:
            header = ["path", "labels"]
            yield first[0], dict(zip(header, first[1], strict=True))
        for line, values in records:
            if isinstance(values, DataError):
                yield line, values
            elif len(values) != len(header):
                yield (
                    line,
                    DataError(f"{len(values)} values for {len(header)} columns: quote what holds the delimiter"),
                )
            else:
                yield line, dict(zip(header, values, strict=True))


def _csv_records(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str] | DataError]]:
    """Records with the line they start on (a quoted value may run over several); blank lines are skipped."""
    end = 0
    while True:
        start = end + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, DataError(f"broken CSV ({error}): nothing after this line was read")
            return
        end = int(getattr(reader, "line_num", start))
        if any(value.strip() for value in values):
            yield start, values


def _header(path: Path, first: list[str], root: Path) -> list[str] | None:
    """The column names; None where the first line is data, a file that exists and its labels."""
    if {"path", "labels"} <= known_columns(first).keys():
        return first
    if len(first) == 2 and (root / first[0].strip()).is_file():
        return None
    raise DataError(
        f"{path}:1: the first line must name the columns, among them one of {', '.join(COLUMNS['path'])}"
        f" and one of {', '.join(COLUMNS['labels'])}"
    )


def _jsonl_rows(path: Path, root: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                fields = json.loads(text)
            except ValueError as error:
                yield line, DataError(f"not JSON: {error}")
                continue
            yield (
                line,
                fields if isinstance(fields, dict) else DataError("not a JSON object: write {…} on each line"),
            )


def _parquet_rows(path: Path, root: Path) -> Iterator[Row]:
    import pyarrow as pa  # type: ignore[import-untyped]  # slow to load, and only Parquet needs it
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        with pq.ParquetFile(path) as file:
            columns = known_columns(file.schema_arrow.names)
            line = 0
            for batch in file.iter_batches(columns=list(columns.values())):
                for fields in batch.to_pylist():
                    line += 1
                    yield line, fields
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {str(error).splitlines()[0]}") from error


READERS: dict[str, Callable[[Path, Path], Iterator[Row]]] = {
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".parquet": _parquet_rows,
}
