"""Reads what the tables of the READMEs are made of, and writes them; whatever is missing is one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlclip.errors import ResultsError
from mlclip.json_lines import Line
from mlclip_bench.heads.results import Results
from mlclip_bench.load.store import Store


def read_text(file: Path) -> str:
    """Read a file; raises ResultsError."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def write_text(file: Path, text: str) -> None:
    """Write a file; raises ResultsError."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{file}: cannot be written: {error.strerror or error}") from error


def read_figures(file: Path) -> Mapping[str, Any]:
    """Read derived figures; raises ResultsError."""
    try:
        found: Mapping[str, Any] = json.loads(read_text(file))
    except ValueError as error:
        raise ResultsError(f"{file}: not JSON: {error}") from error
    return found


def read_lines(store: Results | Store) -> list[Line]:
    """Read raw lines; raises ResultsError, also where there are none."""
    found = store.lines()
    if not found:
        raise ResultsError(f"{store.path}: there are no results; --results names the folder that holds all of them")
    return found
