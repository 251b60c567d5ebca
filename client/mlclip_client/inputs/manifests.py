"""Manifests and lists: files that name images, or hold them. A broken line becomes an item with an error."""

from collections.abc import Generator, Iterator
from contextlib import closing
from functools import lru_cache
from itertools import islice
from typing import IO, Any

from mlclip_client.inputs.columns import Columns, base_of, choose_columns, clean_text, listed_item
from mlclip_client.inputs.item import Cell, Item, failed_item
from mlclip_client.inputs.parquet import parquet_items
from mlclip_client.inputs.skipped import Skipped
from mlclip_client.inputs.streams import open_place
from mlclip_client.lines import (
    Fields,
    Line,
    check_encoding,
    csv_fields,
    csv_records,
    delimiter_of,
    json_rows,
    read_lines,
    too_long,
)
from mlclip_client.names import is_data_uri
from mlclip_client.wording import reason_of

_ROWS_TO_CHECK = 100


def check_manifest(name: str, column: str | None) -> None:
    """Raise ValueError if a manifest cannot be read or has no column to take; its suffix tells the format."""
    try:
        with closing(_items(name, column, Skipped())) as items:
            next(items, None)
    except OSError as error:
        raise ValueError(f"{name}: {reason_of(error)}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def read_manifest(name: str, column: str | None, skipped: Skipped) -> Iterator[Item]:
    """Give an item for each row of a manifest, in its order; if it cannot be read to its end, a last item says so."""
    try:
        yield from _items(name, column, skipped)
    except (OSError, ValueError) as error:
        yield failed_item(name, f"the manifest cannot be read to its end: {reason_of(error)}")


def read_list(name: str, nul: bool, skipped: Skipped) -> Iterator[Item]:
    """Give an item for each name in a list; if it cannot be read to its end, a last item says so."""
    try:
        with open_place(name) as file:
            yield from read_names(file, name, nul, skipped)
    except (OSError, ValueError) as error:
        yield failed_item(name, f"the list cannot be read to its end: {reason_of(error)}")


def read_names(file: IO[bytes], name: str, nul: bool, skipped: Skipped) -> Iterator[Item]:
    """Give an item for each name in an open list, as soon as its line arrives; `nul` as in `InputOptions`."""
    base = base_of(name)
    for line in read_lines(file, nul=nul):
        where = f"{name}:{line.number}"
        if line.data is None:
            yield failed_item(where, too_long())
        elif not line.data.strip():
            skipped.skipped["empty lines"] += 1
        else:
            yield listed_item(line.data.decode("utf-8", "surrogateescape"), "path", base, where, None)


def _items(name: str, column: str | None, skipped: Skipped) -> Generator[Item]:
    """Items of the rows; raises ValueError before the first one if there is no column to take."""
    with open_place(name) as file:
        suffix = name.lower().rpartition(".")[2]
        if suffix == "parquet":
            yield from parquet_items(file, name, column)
            return
        check_encoding(file)
        if suffix in ("csv", "tsv"):
            yield from _csv_items(file, name, column, skipped)
        else:
            _check_json(file, column)
            file.seek(0)
            yield from _json_items(file, name, column, skipped)


def _csv_items(file: IO[bytes], name: str, column: str | None, skipped: Skipped) -> Iterator[Item]:
    delimiter = delimiter_of(name)
    records = csv_records(file, delimiter)
    _, header = next(records, (1, "the file is empty; its first line must name the columns"))
    if isinstance(header, str):
        raise ValueError(header)
    columns = choose_columns(header, (), column)
    for number, record in records:
        fields = csv_fields(header, record, delimiter)
        yield from _row_items(fields, columns, name, f"{name}:{number}", skipped)


def _check_json(file: IO[bytes], column: str | None) -> None:
    """Refuse a manifest if none of its first rows has a column to take; later rows are judged one by one."""
    refused: ValueError | None = None
    for _, fields in islice(json_rows(file), _ROWS_TO_CHECK):
        if isinstance(fields, dict):
            try:
                _json_columns(tuple(fields), column)
                return
            except ValueError as error:
                refused = refused or error
    if refused is not None:
        raise refused


def _json_items(file: IO[bytes], name: str, column: str | None, skipped: Skipped) -> Iterator[Item]:
    for line, fields in json_rows(file):
        where = f"{name}:{line.number}"
        try:
            columns = _json_columns(tuple(fields), column) if isinstance(fields, dict) else None
        except ValueError as error:
            fields, columns = str(error), None
        yield from _row_items(fields, columns, name, where, skipped, line)


def _row_items(
    fields: Fields, columns: Columns | None, name: str, where: str, skipped: Skipped, line: Line | None = None
) -> Iterator[Item]:
    """Give the item of a row, if there is one."""
    if isinstance(fields, dict) and columns is not None:
        yield _row_item(fields, columns, name, where, line)
    elif isinstance(fields, str):
        yield failed_item(where, fields)
    else:
        skipped.skipped["empty lines"] += 1


@lru_cache(maxsize=64)  # most rows have the same fields
def _json_columns(names: tuple[str, ...], column: str | None) -> Columns:
    in_base64 = [name for name in names if name.strip().lower() in ("bytes", "image_bytes", "base64")]
    return choose_columns([name for name in names if name not in in_base64], in_base64, column)


def _row_item(fields: dict[str, Any], columns: Columns, name: str, where: str, line: Line | None = None) -> Item:
    words = fields.get(columns.text) if columns.text else None
    text = clean_text(words) or None if isinstance(words, str) else None
    value = fields[columns.image]
    is_struct = isinstance(value, dict)
    if line is not None and (columns.holds == "bytes" or is_data_uri(value) or is_struct and value.get("bytes")):
        size = len(line.data or b"")
        return Item(
            where, "cell", name, cell=Cell(columns.image, line.number), offset=line.offset, size=size, text=text
        )
    return listed_item(value.get("path") if is_struct else value, columns.holds, base_of(name), where, text)
