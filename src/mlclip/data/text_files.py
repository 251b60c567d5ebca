"""Text files: opened for the readers that the client has, too, and written whole or not at all."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

from mlclip_client.lines import check_encoding, csv_records, delimiter_of

from mlclip.errors import DataError
from mlclip.files import check_file, write_lines


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a text file for the readers in `mlclip_client.lines`; raises DataError, also for UTF-16."""
    try:
        check_file(path)
        with path.open("rb") as file:
            check_encoding(file)
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


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


def columns(path: Path, *names: str) -> Iterator[tuple[str, list[str]]]:
    """Read the named columns of a CSV file, whose first line holds the names; raises DataError if one is missing.

    Yields the place of a record, as `file:line`, and its values in the order of `names`; a missing value is empty.
    """
    with opened(path) as file:
        records = csv_records(file, delimiter_of(path.name))
        _, header = next(records, (1, []))
        if isinstance(header, str) or not set(names) <= set(header):
            raise DataError(f"{path}: the first line must name the columns {', '.join(names[:-1])} and {names[-1]}")
        try:
            refuse_repeated([value for value in header if value in names], "column")
        except DataError as error:
            raise DataError(f"{path}:1: {error}") from None
        places = [header.index(name) for name in names]
        for line, record in records:
            if isinstance(record, str):
                raise DataError(f"{path}:{line}: {record}")
            if any(value.strip() for value in record):
                yield f"{path}:{line}", [record[place] if place < len(record) else "" for place in places]


def relative_to(folder: Path) -> Callable[[Path], str]:
    """How a file in `folder` names an image: relative to itself, with forward slashes, links on the way resolved."""
    resolve = cache(Path.resolve)
    base = resolve(folder)
    return lambda image: Path(os.path.relpath(resolve(image.parent) / image.name, base)).as_posix()
