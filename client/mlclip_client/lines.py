"""Text files line by line: lists, CSV, TSV and JSON lines, read as they come, no line longer than a limit.

A line ends with a newline, a carriage return, or both.
"""

import codecs
import csv
import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from mlclip_client.wording import counted, reason_of, shortened

_BOM = b"\xef\xbb\xbf"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CHUNK = 8 * 2**10
_LONGEST_LINE = 2**20
_LONGEST_JSON_LINE = 128 * 2**20
"""Large, since JSON may hold the image in base64."""
_ENDS = re.compile(rb"\r\n?|\n")
_QUOTED = re.compile(r'"([^"]*(?:""[^"]*)*)"')
Fields = dict[str, Any] | str | None
"""The values of a row by their names, or what is wrong with it; None for an empty line."""
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


def read_lines(file: IO[bytes], limit: int = _LONGEST_LINE, nul: bool = False) -> Iterator[Line]:
    """Give each line shorter than `limit` bytes as soon as it arrives, also from a pipe; `nul`: lines end with NUL."""
    read, ends = getattr(file, "read1", file.read), re.compile(b"\0") if nul else _ENDS
    number, offset, size, data = 1, 0, 0, bytearray()
    position, is_split = 0, False

    def add(piece: bytes) -> None:
        nonlocal size
        size += len(piece)
        if size < limit:
            data.extend(piece)

    def line() -> Line:
        mark = len(_BOM) if number == 1 and not nul and data.startswith(_BOM) else 0
        return Line(number, offset + mark, bytes(data[mark:]) if size < limit else None)

    while chunk := read(_CHUNK):
        begin = int(is_split and chunk.startswith(b"\n"))  # the second half of a line's end
        offset += begin
        for end in ends.finditer(chunk, begin):
            add(chunk[begin : end.start()])
            yield line()
            begin = end.end()
            number, offset, size = number + 1, position + begin, 0
            data.clear()
        add(chunk[begin:])
        position, is_split = position + len(chunk), not nul and chunk.endswith(b"\r")
    if size:
        yield line()


def too_long(limit: int = _LONGEST_LINE) -> str:
    """Say what is wrong with a line without data."""
    return f"the line is longer than {limit:,} bytes"


def check_encoding(file: IO[bytes]) -> None:
    """Raise ValueError for UTF-16 at the beginning of a file, where it stays."""
    if file.read(2) in _UTF16:
        raise ValueError("the file is UTF-16: save it as UTF-8")
    file.seek(0)


def json_rows(file: IO[bytes], errors: str = "surrogateescape") -> Iterator[tuple[Line, Fields]]:
    """Give each line of a file of JSON lines with its fields.

    Bytes that are not UTF-8 are decoded by `errors`, as in `bytes.decode`.
    """
    for line in read_lines(file, _LONGEST_JSON_LINE):
        yield line, too_long(_LONGEST_JSON_LINE) if line.data is None else _json_row(line.data.decode("utf-8", errors))


def parse_json(text: str) -> Any:
    """Parse JSON from elsewhere; raises ValueError, also if it is nested too deeply, or an object has a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {reason_of(error)}") from error
    except RecursionError as error:
        raise ValueError("not JSON: it is nested too deeply") from error


def delimiter_of(name: str) -> str:
    """Tell from the suffix of a file what separates its values."""
    return "\t" if name.lower().endswith(".tsv") else ","


def csv_fields(header: list[str], record: Record, delimiter: str) -> Fields:
    """Give the values of a record by column."""
    if isinstance(record, str) or not any(value.strip() for value in record):
        return record if isinstance(record, str) else None
    if len(record) == len(header):
        return dict(zip(header, record, strict=True))
    advice = "every tab begins another value" if delimiter == "\t" else "quote values that contain the delimiter"
    return f"{counted(len(record), 'value')} for {counted(len(header), 'column')}: {advice}"


def csv_records(file: IO[bytes], delimiter: str, errors: str = "surrogateescape") -> Iterator[tuple[int, Record]]:
    """Give the header and each record of a CSV file with the number of its first line; `errors` as in `json_rows`.

    Blank lines before the header are passed over. A quoted value may hold line ends; a line that begins no whole record
    is refused alone. If the delimiter is a tab, every line is a record.
    """
    lines, again, is_begun = read_lines(file), deque[Line](), False

    def following() -> Line | None:
        return again.popleft() if again else next(lines, None)

    while (line := following()) is not None:
        if line.data is None:
            record: Record = too_long()
        elif delimiter == "\t":
            record = [_unquoted(value) for value in line.data.decode("utf-8", errors).split("\t")]
        else:
            record, left = _csv_record(line, following, delimiter, errors)
            again.extendleft(reversed(left))
        is_begun = is_begun or isinstance(record, str) or any(value.strip() for value in record)
        if is_begun:
            yield line.number, record


def _csv_record(
    line: Line, following: Callable[[], Line | None], delimiter: str, errors: str
) -> tuple[Record, list[Line]]:
    """The record that begins with a line; if there is none, why, and the lines that were taken after that one."""
    taken: list[Line] = []

    def texts() -> Iterator[str]:
        part, size = line, 0
        while part.data is not None and (size := size + len(part.data)) <= _LONGEST_LINE:
            yield part.data.decode("utf-8", errors) + "\n"
            if (after := following()) is None:
                return
            taken.append(part := after)

    try:
        return next(csv.reader(texts(), delimiter=delimiter, strict=True, skipinitialspace=True)), []
    except csv.Error as error:
        return f"broken CSV in line {line.number}: {error}", taken


def _unquoted(value: str) -> str:
    whole = _QUOTED.fullmatch(value)
    return whole[1].replace('""', '"') if whole else value


def _json_row(text: str) -> Fields:
    if not text.strip():
        return None
    try:
        fields = parse_json(text)
    except ValueError as error:
        return str(error)
    return fields if isinstance(fields, dict) else "not a JSON object: write {…} on each line"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shortened(repr(twice))} is there twice")
    return fields
