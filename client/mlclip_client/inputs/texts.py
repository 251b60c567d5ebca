"""The texts of images, from a file that names them: CSV with the columns `path` and `text`, or JSON lines."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from mlclip_client.inputs.item import Item


class Texts:
    """Which text goes with which image file.

    Args:
        file: `.csv` whose first line names the columns, or `.jsonl`; `path` and `text` are read, others left aside.
            Relative paths start from the file's folder, as in the manifests that mlclip trains on.

    Attributes:
        used: how many images have been given a text.

    Raises:
        ValueError: the file has another suffix, cannot be read, a line is broken, or there is no column `path` or
            `text`.
    """

    def __init__(self, file: Path) -> None:
        read = {".csv": _csv_rows, ".jsonl": _json_rows}.get(file.suffix.lower())
        if read is None:
            raise ValueError(f"{file}: texts come as .csv or .jsonl")
        self.used = 0
        try:
            self._texts = {_key(file.parent / path): text for path, text in read(file)}
        except OSError as error:
            raise ValueError(f"--texts {file}: {error.strerror}: name a .csv or .jsonl file") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: not UTF-8") from error

    def __len__(self) -> int:
        return len(self._texts)

    def join(self, items: Iterable[Item]) -> Iterator[Item]:
        """Give each file its text, if there is one."""
        for item in items:
            text = self._texts.get(_key(Path(item.place))) if item.kind == "file" else None
            self.used += text is not None
            yield item if text is None else replace(item, text=text)


def _key(path: Path) -> str:
    return os.path.abspath(path)


def _csv_rows(file: Path) -> Iterator[tuple[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        if not {"path", "text"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{file}: the first line must name the columns `path` and `text`")
        try:
            for row in reader:
                if None in row:
                    raise ValueError(f"{file}:{reader.line_num}: more values than columns: quote what holds a comma")
                yield from _pair(row, f"{file}:{reader.line_num}")
        except csv.Error as error:
            raise ValueError(f"{file}: broken CSV after line {reader.line_num}: {error}") from error


def _json_rows(file: Path) -> Iterator[tuple[str, str]]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}:{number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{file}:{number}: not a JSON object: write {{…}} on each line")
            yield from _pair(row, f"{file}:{number}")


def _pair(row: Mapping[str, object], where: str) -> Iterator[tuple[str, str]]:
    """The path and the text of a row; nothing where it has no text."""
    path, text = row.get("path"), row.get("text")
    if not isinstance(path, str) or not path:
        raise ValueError(f"{where}: no path")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{where}: the text must be a string, not {text!r}")
    if text:
        yield path, text
