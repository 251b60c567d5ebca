"""Text files as people write them: UTF-8 with or without a byte order mark, read as numbered lines or CSV records."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mlclip.errors import DataError
from mlclip.files import read_file, write_lines


def read_text(path: Path) -> str:
    """The content of a file; raises DataError with the line that is not UTF-8."""
    try:
        return read_file(path).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8: save the file as UTF-8") from error


def parse_json(text: str) -> Any:
    """Read JSON; raises DataError, also for a key that an object has twice and for nesting without end."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        refuse_repeated([key for key, _ in pairs], "key")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except ValueError as error:
        raise DataError(f"not JSON: {error}") from error
    except RecursionError:
        raise DataError("not JSON that can be read: it is nested too deeply") from None


def refuse_repeated(names: Sequence[str], what: str) -> None:
    """Refuse a name that is given twice, since one of the two would be lost; raises DataError."""
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise DataError(f"two {what}s are called {repeated!r}: rename or remove one")


def write_text(path: Path, lines: Iterable[str]) -> None:
    """Write lines, which bring their own line ends; the file appears whole or not at all. Creates the folder."""
    try:
        write_lines(path, lines)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, each with its number, from 1."""
    for number, line in enumerate(io.StringIO(read_text(path), newline=None), start=1):
        if line.strip():
            yield number, line


def records(path: Path) -> Iterator[tuple[int, list[str] | DataError]]:
    """The records of a CSV file, or of a `.tsv` file, that are not blank, each with the line it starts on.

    A quoted value may span several lines. Broken CSV is the last record, as an error.
    """
    text = io.StringIO(read_text(path), newline="")
    reader = csv.reader(text, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    start = 1
    try:
        for values in reader:
            if any(value.strip() for value in values):
                yield start, values
            start = reader.line_num + 1
    except csv.Error as error:
        yield start, DataError(f"broken CSV ({error}): nothing after this line was read")


def columns(path: Path, *names: str) -> Iterator[tuple[str, list[str]]]:
    """Read the named columns of a CSV file, whose first line holds the names; raises DataError if one is missing.

    Yields the place of a record, as `file:line`, and its values in the order of `names`; a missing value is empty.
    """
    places: list[int] | None = None
    for line, values in records(path):
        if isinstance(values, DataError):
            raise DataError(f"{path}:{line}: {values}")
        if places is not None:
            yield f"{path}:{line}", [values[place] if place < len(values) else "" for place in places]
        elif set(names) <= set(values):
            try:
                refuse_repeated([value for value in values if value in names], "column")
            except DataError as error:
                raise DataError(f"{path}:{line}: {error}") from None
            places = [values.index(name) for name in names]
        else:
            break
    if places is None:
        raise DataError(f"{path}: the first line must name the columns {', '.join(names[:-1])} and {names[-1]}")


def relative_to(folder: Path) -> Callable[[Path], str]:
    """How a file in `folder` names an image: relative to itself, with forward slashes, links on the way resolved."""
    resolve = cache(Path.resolve)
    base = resolve(folder)
    return lambda image: Path(os.path.relpath(resolve(image.parent) / image.name, base)).as_posix()
