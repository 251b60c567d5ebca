"""Manifests as lines: CSV, TSV and JSON lines. A broken line becomes an item that says so; reading goes on."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import islice
from typing import IO

from mlclip_client.inputs import parquet
from mlclip_client.inputs.archives import clean_text
from mlclip_client.inputs.columns import Columns, base_of, choose_columns, place_item
from mlclip_client.inputs.item import Item, file_item
from mlclip_client.inputs.lines import Line, read_lines
from mlclip_client.inputs.skipped import Skipped
from mlclip_client.inputs.stores import one_line
from mlclip_client.inputs.streams import open_place

_LONGEST_CSV_LINE = 2**20
_LONGEST_JSON_LINE = 128 * 2**20
"""Large, since JSON may hold the image in base64."""
_ROWS_TO_CHECK = 100


def open_manifest(name: str, column: str | None, found: Skipped) -> Callable[[], Iterator[Item]]:
    """Look at a manifest's columns; what comes back reads its items, one for each row, from the beginning.

    Args:
        name: its path or address; the suffix says what it is.
        column: see `InputOptions`.
        found: receives the counts.

    Raises:
        ValueError: it cannot be read, or has no column to take.
    """
    suffix = name.lower().rpartition(".")[2]
    try:
        if suffix == "parquet":
            return partial(_guarded, name, parquet.open_parquet(name, column))
        if suffix in ("csv", "tsv"):
            columns = _csv_columns(name, column)
            return partial(_guarded, name, partial(_csv_items, name, columns, found))
        _check_json(name, column)
        return partial(_guarded, name, partial(_json_items, name, column, found))
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror or one_line(error)}") from error
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(name) else f"{name}: {message}") from error


def _guarded(name: str, read: Callable[[], Iterator[Item]]) -> Iterator[Item]:
    """A manifest that cannot be read to its end says so in a last item."""
    try:
        yield from read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        yield file_item(name, f"read: the manifest cannot be read to its end: {reason}")


def _csv_columns(name: str, column: str | None) -> Columns:
    with open_place(name) as file:
        for _, row in _csv_records(file, name):
            if isinstance(row, str):
                raise ValueError(row)
            return choose_columns(row, (), column)
    raise ValueError("the file is empty; its first line must name the columns")


def _csv_items(name: str, columns: Columns, found: Skipped) -> Iterator[Item]:
    base, header = base_of(name), list[str]()
    with open_place(name) as file:
        for number, row in _csv_records(file, name):
            where = f"{name}:{number}"
            if isinstance(row, str):
                yield file_item(where, f"read: {row}")
            elif not header:
                header = row
            elif not any(value.strip() for value in row):
                found.skipped["empty lines"] += 1
            elif len(row) != len(header):
                reason = f"{len(row)} values for {len(header)} columns: quote what holds the delimiter"
                yield file_item(where, f"read: {reason}")
            else:
                fields = dict(zip(header, row, strict=True))
                text = fields[columns.text] if columns.text else ""
                yield place_item(fields[columns.source], columns.holds, base, where, clean_text(text) or None)


def _csv_records(file: IO[bytes], name: str) -> Iterator[tuple[int, list[str] | str]]:
    """Number of its first line and values of each record, or what is wrong with it."""
    last, too_long = 0, list[int]()

    def lines() -> Iterator[str]:
        nonlocal last
        for line in read_lines(file, _LONGEST_CSV_LINE):
            last = line.number
            if line.whole:
                yield line.data.decode("utf-8", "surrogateescape")
            else:
                too_long.append(line.number)

    reader = csv.reader(lines(), delimiter="\t" if name.lower().endswith(".tsv") else ",", strict=True)
    while True:
        first = last + 1
        try:
            record: list[str] | str | None = next(reader, None)
        except csv.Error as error:
            record = f"broken CSV in lines {first} to {last}: {error}"
        for number in too_long:
            yield number, f"the line is longer than {_LONGEST_CSV_LINE:,} bytes"
            first = number + 1
        too_long.clear()
        if record is None:
            return
        yield first, record


def _check_json(name: str, column: str | None) -> None:
    """Refuse a manifest whose first rows all have no column to take; later rows are judged one by one."""
    refused: ValueError | None = None
    with open_place(name) as file:
        for line in islice(read_lines(file, _LONGEST_JSON_LINE), _ROWS_TO_CHECK):
            fields = _json_row(line)
            if isinstance(fields, dict):
                try:
                    _json_columns(tuple(fields), column)
                    return
                except ValueError as error:
                    refused = refused or error
    if refused is not None:
        raise refused


def _json_items(name: str, column: str | None, found: Skipped) -> Iterator[Item]:
    base = base_of(name)
    with open_place(name) as file:
        for line in read_lines(file, _LONGEST_JSON_LINE):
            if not line.data.strip():
                found.skipped["empty lines"] += 1
            else:
                yield _json_item(line, f"{name}:{line.number}", name, base, column)


def _json_item(line: Line, where: str, name: str, base: str, column: str | None) -> Item:
    fields = _json_row(line)
    if isinstance(fields, str):
        return file_item(where, f"read: {fields}")
    try:
        columns = _json_columns(tuple(fields), column)
    except ValueError as error:
        return file_item(where, f"read: {error}")
    words = fields.get(columns.text) if columns.text else None
    text = clean_text(words) or None if isinstance(words, str) else None
    if columns.holds == "bytes":
        return Item(where, "cell", name, f"{columns.source}:{line.number}", line.offset, len(line.data), text)
    return place_item(fields[columns.source], columns.holds, base, where, text)


@lru_cache(maxsize=64)  # most rows have the same fields
def _json_columns(names: tuple[str, ...], column: str | None) -> Columns:
    in_base64 = [name for name in names if name.strip().lower() in ("bytes", "image_bytes", "base64")]
    return choose_columns([name for name in names if name not in in_base64], in_base64, column)


def _json_row(line: Line) -> dict[str, object] | str:
    if not line.whole:
        return f"the line is longer than {_LONGEST_JSON_LINE:,} bytes"
    try:
        fields = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {one_line(error)}"
    return fields if isinstance(fields, dict) else "not a JSON object: write {…} on each line"
