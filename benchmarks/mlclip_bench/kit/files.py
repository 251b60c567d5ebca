"""Text and JSON files; every failure is a ResultsError of one line."""

import json
from pathlib import Path
from typing import Any

from mlclip.errors import ResultsError
from mlclip.files import write_lines


def read_text(path: Path) -> str:
    """Read a UTF-8 file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 file, make its folder where needed, and return its path."""
    try:
        write_lines(path, [text])
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise ResultsError(f"{path}: not JSON: {error}") from error


def write_json(path: Path, value: Any, indent: int | None = None) -> Path:
    """Write a JSON file that ends with a newline."""
    return write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def cannot_write(path: Path, error: OSError) -> ResultsError:
    """The error of a path that cannot be written."""
    return ResultsError(f"{path}: cannot be written: {error.strerror or error}")
