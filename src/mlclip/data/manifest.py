"""Manifests: read from CSV, JSON lines, Parquet and Label Studio's exports, written as JSON lines.

A broken line becomes a problem with its number, and reading goes on. Lines count from 1, the header included; in
Parquet, rows count from 1.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from mlclip_client.lines import Fields, csv_fields, csv_records, delimiter_of, json_rows

from mlclip.data.dataset import Dataset, Item
from mlclip.data.label_studio import label_studio_rows
from mlclip.data.problems import Problem
from mlclip.data.rows import COLUMNS, known_columns, named_path, to_item
from mlclip.data.text_files import opened, relative_to, write_text
from mlclip.errors import DataError
from mlclip.files import check_file

Row = tuple[int, Fields]


def read_manifest(
    path: Path, root: Path, separator: str = "|", split: str | None = None
) -> tuple[list[Item], list[Problem]]:
    """Read a manifest: its items, and a problem for every unusable line; raises DataError if the file cannot be read.

    The suffix tells the format, see `READERS`. Relative image paths start from `root`; `separator` is between labels
    that come as one string; a `split` takes the place of those in the lines.
    """
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path}: a manifest ends in {', '.join(READERS)}")
    items: list[Item] = []
    problems: list[Problem] = []
    for line, fields in read(path, root):
        where = f"{path}:{line}"
        if isinstance(fields, str):
            problems.append(Problem(where, fields))
        if not isinstance(fields, dict):
            continue
        try:
            items.append(to_item(fields, where, root, separator, split))
        except DataError as error:
            problems.append(Problem(where, str(error), path=_named(fields, root)))
    return _joined(items), problems


def write_manifest(dataset: Dataset, path: Path) -> None:
    """Write a dataset as JSON lines: path, labels, split, text, group, sha256; unknown values are left out.

    Image paths are relative to the manifest, with forward slashes. The file appears whole or not at all.
    """
    name = relative_to(path.parent)

    def line(item: Item) -> str:
        row = {"path": name(item.path), "labels": list(item.labels), "split": item.split}
        row |= {"text": item.text, "group": item.group, "sha256": item.sha256}
        return json.dumps({key: value for key, value in row.items() if value is not None}, ensure_ascii=False) + "\n"

    write_text(path, map(line, dataset.items))


def _named(fields: Mapping[str, object], root: Path) -> Path | None:
    """The image of a refused line, where the line tells it."""
    try:
        return named_path(fields, known_columns(list(fields)), root)
    except (DataError, KeyError):
        return None


def _joined(items: list[Item]) -> list[Item]:
    """Items with the lines of an image joined where the file is in long form: one label per line, each once.

    Lines that differ in anything else stay apart; the check of paths refuses them.
    """
    lines: dict[tuple[object, ...], list[Item]] = {}
    for item in items:
        lines.setdefault((item.path, item.text, item.split, item.group, item.sha256), []).append(item)
    joined = []
    for own in lines.values():
        labels = [label for item in own for label in item.labels]
        long_form = len(own) > 1 and len(labels) == len(set(labels)) == len(own)
        joined += [replace(own[0], labels=tuple(labels))] if long_form else own
    return joined


def _csv_rows(path: Path, root: Path) -> Iterator[Row]:
    delimiter = delimiter_of(path.name)
    with opened(path) as file:
        records = csv_records(file, delimiter)
        begin, first = next(records, (1, "the file is empty"))
        if isinstance(first, str):
            raise DataError(f"{path}:{begin}: {first}")
        header = _header(path, begin, first, root)
        for line, record in records if header is first else chain([(begin, first)], records):
            yield line, csv_fields(header, record, delimiter)


def _header(path: Path, line: int, first: list[str], root: Path) -> list[str]:
    """The column names: those of the first line, or our own where it is data (a file that exists, and its labels)."""
    if {"path", "labels"} <= _checked_columns(path, first).keys():
        return first
    if len(first) == 2 and (root / first[0].strip()).is_file():
        return ["path", "labels"]
    raise DataError(
        f"{path}:{line}: the first line must name the columns, among them one of {', '.join(COLUMNS['path'])}"
        f" and one of {', '.join(COLUMNS['labels'])}, not {', '.join(first)[:80]!r}"
    )


def _checked_columns(path: Path, names: Sequence[str]) -> dict[str, str]:
    try:
        return known_columns(names)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _jsonl_rows(path: Path, root: Path) -> Iterator[Row]:
    with opened(path) as file:
        yield from ((line.number, fields) for line, fields in json_rows(file))


def _parquet_rows(path: Path, root: Path) -> Iterator[Row]:
    import pyarrow as pa  # type: ignore[import-untyped]  # slow to load, and only Parquet needs it
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        check_file(path)
        with pq.ParquetFile(path) as file:
            columns = _checked_columns(path, file.schema_arrow.names)
            batches = file.iter_batches(columns=list(columns.values()))
            yield from enumerate((fields for batch in batches for fields in _plain(batch)), start=1)
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _plain(batch: Any) -> list[Fields]:
    """The rows of an Arrow batch; one that holds a text that is no UTF-8, say, is broken."""
    try:
        return list(batch.to_pylist())
    except ValueError as error:
        if len(batch) == 1:
            return [f"a value cannot be read: {error}"]
        return [row for n in range(len(batch)) for row in _plain(batch.slice(n, 1))]


READERS: dict[str, Callable[[Path, Path], Iterator[Row]]] = {
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".parquet": _parquet_rows,
    ".json": label_studio_rows,
}
