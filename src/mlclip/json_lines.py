"""Results on disk: one JSON object per line, appended under a lock and safe against a writer that is killed."""

import fcntl
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlclip.errors import ResultsError

Line = dict[str, Any]


def read_lines(path: Path, what: str, key: Callable[[Line], object]) -> list[Line]:
    """Read all lines; an unfinished last line does not count, and a missing file holds none; raises ResultsError.

    `what` names a line in messages; `key` reads what every line must have, and its KeyError, TypeError or ValueError
    refuses the line.
    """
    try:
        rows = path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror or error}") from error
    lines: list[Line] = []
    for number, row in enumerate(rows[:-1], start=1):
        try:
            line = json.loads(row.decode())
            key(line)
        except (ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{path}:{number}: not a {what} ({error!r}): delete the line") from error
        lines.append(line)
    return lines


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line, over an unfinished one if there is one; other writers wait. Creates the folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                file.truncate(path.read_bytes().rfind(b"\n") + 1)
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ResultsError(f"{path.parent}: cannot be written: {error.strerror or error}") from error


def different(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names whose values differ between a line that was read and one that would be written in its place."""
    wanted = json.loads(json.dumps(wanted))
    return [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
