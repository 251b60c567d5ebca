"""Text files line by line: lists, CSV and JSON lines, read as they come, no line longer than a limit."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from mlclip_client.wording import reason_of

_BOM = b"\xef\xbb\xbf"
_CHUNK = 8 * 2**10
_LONGEST_LINE = 2**20
_LONGEST_JSON_LINE = 128 * 2**20
"""Large, since JSON may hold the image in base64."""
Record = list[str] | str
"""The values of a record, none of an empty line; or what is wrong with it."""


@dataclass(frozen=True)
class Line:
    """One line of a file.

    Attributes:
        number: counted from 1.
        offset: where it begins in the file, in bytes.
        data: without its end; None if it is too long.
    """

    number: int
    offset: int
    data: bytes | None


def read_lines(file: IO[bytes], limit: int = _LONGEST_LINE, end: bytes = b"\n") -> Iterator[Line]:
    """Give each line as soon as it arrives.

    Args:
        file: read from where it stands, chunk by chunk; lines of a pipe come out one by one.
        limit: of a line with its end, in bytes.
        end: of each line, one byte.
    """
    number, offset, size, data = 1, 0, 0, bytearray()
    for piece, is_last in _pieces(file, end):
        size += len(piece)
        if size < limit:
            data += piece
        if is_last:
            yield _line(number, offset, data if size < limit else None, end)
            number, offset, size, data = number + 1, offset + size + 1, 0, bytearray()
    if size:
        yield _line(number, offset, data if size < limit else None, end)


def too_long(limit: int = _LONGEST_LINE) -> str:
    """Say what is wrong with a line without data."""
    return f"the line is longer than {limit:,} bytes"


def json_rows(file: IO[bytes], errors: str = "surrogateescape") -> Iterator[tuple[Line, dict[str, Any] | str | None]]:
    """Give each line of a file of JSON lines with its fields, or what is wrong with it; None for empty lines.

    Args:
        file: from its beginning.
        errors: how bytes that are not UTF-8 are decoded, as in `bytes.decode`.
    """
    for line in read_lines(file, _LONGEST_JSON_LINE):
        yield line, too_long(_LONGEST_JSON_LINE) if line.data is None else _json_row(line.data.decode("utf-8", errors))


def csv_records(file: IO[bytes], delimiter: str, errors: str = "surrogateescape") -> Iterator[tuple[int, Record]]:
    """Give each record of a CSV file, the header among them, with the number of its first line.

    Args:
        file: from its beginning.
        delimiter: between values.
        errors: see `json_rows`.
    """
    last, skipped = 0, list[int]()

    def lines() -> Iterator[str]:
        nonlocal last
        for line in read_lines(file):
            last = line.number
            if line.data is None:
                skipped.append(line.number)
            else:
                yield line.data.decode("utf-8", errors) + "\n"

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    while True:
        first = last + 1
        try:
            record: Record | None = next(reader, None)
        except csv.Error as error:
            where = f"line {first}" if first == last else f"lines {first} to {last}"
            record = f"broken CSV in {where}: {error}"
        for number in skipped:
            yield number, too_long()
            first = number + 1
        skipped.clear()
        if record is None:
            return
        yield first, record


def _pieces(file: IO[bytes], end: bytes) -> Iterator[tuple[bytes, bool]]:
    """Pieces of lines, and whether the line ends there."""
    read = getattr(file, "read1", file.read)
    while chunk := read(_CHUNK):
        begin = 0
        while (at := chunk.find(end, begin)) >= 0:
            yield chunk[begin:at], True
            begin = at + len(end)
        if begin < len(chunk):
            yield chunk[begin:], False


def _line(number: int, offset: int, data: bytearray | None, end: bytes) -> Line:
    if data is None:
        return Line(number, offset, None)
    begin = len(_BOM) if number == 1 and end == b"\n" and data.startswith(_BOM) else 0
    return Line(number, offset + begin, bytes(data[begin:]))


def _json_row(text: str) -> dict[str, Any] | str | None:
    if not text.strip():
        return None
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {reason_of(error)}"
    return fields if isinstance(fields, dict) else "not a JSON object: write {…} on each line"
