"""The texts of images, from a file that names them: CSV with the columns `path` and `text`, or JSON lines."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

from mlclip_client.inputs.item import Item
from mlclip_client.lines import csv_records, json_rows

Rows = Iterator[tuple[int, Mapping[str, object] | str]]
"""(number of the line, values by column or what is wrong with them)."""


class Texts:
    """Which text goes with which image file; `used` counts the images that have been given one.

    The file is a `.csv` whose first line names the columns, or a `.jsonl`. Only `path` and `text` are read. Relative
    paths start from the file's folder, as in the manifests that mlclip trains on.
    """

    def __init__(self, file: Path) -> None:
        read = {".csv": _csv_rows, ".jsonl": _json_rows}.get(file.suffix.lower())
        if read is None:
            raise ValueError(f"{file}: texts come as .csv or .jsonl")
        self.used = 0
        if file.exists() and not file.is_file():
            raise ValueError(f"--texts {file}: not a regular file: name a .csv or .jsonl file")
        try:
            with file.open("rb") as data:
                self._texts = dict[str, str]()
                for where, path, text in _pairs(read(data), file):
                    if self._texts.setdefault(os.path.abspath(file.parent / path), text) != text:
                        raise ValueError(f"{where}: an earlier line has another text for {path}: remove one")
        except OSError as error:
            raise ValueError(f"--texts {file}: {error.strerror}: name a .csv or .jsonl file") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: not UTF-8") from error

    def __len__(self) -> int:
        return len(self._texts)

    def join(self, items: Iterable[Item]) -> Iterator[Item]:
        """Give each file its text, if there is one."""
        for item in items:
            text = self._texts.get(os.path.abspath(item.place)) if item.kind == "file" else None
            self.used += text is not None
            yield item if text is None else replace(item, text=text)


def _csv_rows(file: IO[bytes]) -> Rows:
    records = csv_records(file, ",", "strict")
    _, header = next(records, (1, ""))
    if isinstance(header, str) or not {"path", "text"} <= set(header):
        yield 1, "the first line must name the columns `path` and `text`"
        return
    if twice := [name for name in ("path", "text") if header.count(name) > 1]:
        yield 1, f"{header.count(twice[0])} columns are called {twice[0]}: rename all but one"
    for number, record in records:
        if isinstance(record, str):
            yield number, record
        elif len(record) > len(header):
            yield number, "more values than columns: quote what holds a comma"
        elif record:
            yield number, dict(zip(header, record, strict=False))


def _json_rows(file: IO[bytes]) -> Rows:
    return ((line.number, row) for line, row in json_rows(file, "strict") if row is not None)


def _pairs(rows: Rows, file: Path) -> Iterator[tuple[str, str, str]]:
    """Where each text is, the path of its image, and the text."""
    for number, row in rows:
        where = f"{file}:{number}"
        if isinstance(row, str):
            raise ValueError(f"{where}: {row}")
        path, text = row.get("path"), row.get("text")
        if not isinstance(path, str) or not path.strip():
            raise ValueError(f"{where}: no path")
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{where}: the text must be a string, not {text!r}")
        if text:
            yield where, path.strip(), text
