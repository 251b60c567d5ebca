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
    """One line of a file: its number from 1, where it begins in bytes, and its bytes without the end.

    A line that is too long has no data.
    """

    number: int
    offset: int
    data: bytes | None


def read_lines(file: IO[bytes], limit: int = _LONGEST_LINE, end: bytes = b"\n") -> Iterator[Line]:
    """Give each line as soon as it arrives, also from a pipe; `limit`, in bytes, counts the end, which is one byte."""
    number, offset, size, data = 1, 0, 0, bytearray()
    for piece, is_last in _pieces(file, end):
        size += len(piece)
        if size < limit:
            data += piece
        if is_last:
            mark = len(_BOM) if number == 1 and end == b"\n" and data.startswith(_BOM) else 0
            yield Line(number, offset + mark, bytes(data[mark:]) if size < limit else None)
            number, offset, size, data = number + 1, offset + size + 1, 0, bytearray()


def too_long(limit: int = _LONGEST_LINE) -> str:
    """Say what is wrong with a line without data."""
    return f"the line is longer than {limit:,} bytes"


def json_rows(file: IO[bytes], errors: str = "surrogateescape") -> Iterator[tuple[Line, dict[str, Any] | str | None]]:
    """Give each line of a file of JSON lines with its fields, or what is wrong with it; None for an empty line.

    Bytes that are not UTF-8 are decoded by `errors`, as in `bytes.decode`.
    """
    for line in read_lines(file, _LONGEST_JSON_LINE):
        yield line, too_long(_LONGEST_JSON_LINE) if line.data is None else _json_row(line.data.decode("utf-8", errors))


def csv_records(file: IO[bytes], delimiter: str, errors: str = "surrogateescape") -> Iterator[tuple[int, Record]]:
    """Give the header and each record of a CSV file with the number of its first line; `errors` as in `json_rows`."""
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
    read, is_begun = getattr(file, "read1", file.read), False
    while chunk := read(_CHUNK):
        begin = 0
        while (at := chunk.find(end, begin)) >= 0:
            yield chunk[begin:at], True
            begin = at + len(end)
        if is_begun := begin < len(chunk):
            yield chunk[begin:], False
    if is_begun:
        yield b"", True


def _json_row(text: str) -> dict[str, Any] | str | None:
    if not text.strip():
        return None
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {reason_of(error)}"
    return fields if isinstance(fields, dict) else "not a JSON object: write {…} on each line"
