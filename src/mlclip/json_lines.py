"""Raw results on disk: one JSON object a line, safe against a writer that is killed."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlclip.errors import ResultsError

Line = dict[str, Any]


def read_lines(path: Path, what: str, key: Callable[[Line], object]) -> list[Line]:
    """Read all lines; one that a killed writer left half at the end does not count, and no file holds none.

    Args:
        path: the file.
        what: what a line is, for messages.
        key: takes from a line what every line must have.

    Raises:
        ResultsError: the file cannot be read, or a line is broken.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: cannot be read: {error}") from error
    lines: list[Line] = []
    for number, row in enumerate(text.split("\n")[:-1], start=1):
        try:
            line = json.loads(row)
            key(line)
        except (ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{path}:{number}: not a {what} ({error!r}): take the line out") from error
        lines.append(line)
    return lines


def append_line(path: Path, line: Line) -> None:
    """Write a line to the disk, in place of a half one that a killed writer left; others wait. Makes the folder.

    Raises:
        ResultsError: the folder is not writable.
    """
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
