"""From the fields of one manifest line to an item: column names, labels, splits, and what is refused."""

import ast
import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mlclip_client.names import LOCAL, PATHS, TEXTS, is_data_uri, local_file, scheme_of

from mlclip.data.dataset import SPLITS, Item
from mlclip.data.text_files import refuse_repeated
from mlclip.errors import DataError

COLUMNS = {
    "path": PATHS,
    "labels": ("labels", "label", "keywords", "tags"),
    "text": TEXTS,
    "split": ("split",),
    "group": ("group",),
    "sha256": ("sha256",),
}
"""What is read, and its column names, in upper or lower case; of several, the first here counts."""

_SPLIT_ALIASES = {"valid": "val", "validation": "val", "dev": "val"}

_TEXT = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_PRINTED = re.compile(r"""\[\s*\]|[\[({]\s*['"].*[])}]|\[.*,.*\]""", re.DOTALL)
"""What looks like a list, tuple or set of texts that was printed."""
_LIST = re.compile(rf"\[\s*\]|[\[({{]\s*{_TEXT}(?:\s*,\s*{_TEXT})*\s*,?\s*[])}}]")
"""One that reads as it was meant: `['a' 'b']`, without commas, would be one text."""

Fields = Mapping[str, object]


def known_columns(names: Sequence[str]) -> dict[str, str]:
    """The column of each meaning among the given names: `{"path": "File", ...}`.

    Raises DataError if one of these names is there twice, in upper or lower case.
    """
    aliases = {alias for known in COLUMNS.values() for alias in known}
    refuse_repeated([key for name in names if (key := name.strip().lower()) in aliases], "column")
    given = {name.strip().lower(): name for name in names}
    return {
        meaning: next(given[alias] for alias in aliases if alias in given)
        for meaning, aliases in COLUMNS.items()
        if any(alias in given for alias in aliases)
    }


def to_item(fields: Fields, where: str, root: Path, separator: str, split: str | None = None) -> Item:
    """Turn the fields of one line, column name → value, into an item; the path starts from `root`.

    A `split` takes the place of the line's own.

    Raises DataError if a value is missing, of the wrong type or not allowed; the message does not repeat `where`.
    """
    columns = known_columns(list(fields))
    for needed in ("path", "labels"):
        if needed not in columns:
            raise DataError(f"no {needed}: give one of {', '.join(COLUMNS[needed])}")
    path = named_path(fields, columns, root)
    if path is None:
        raise DataError("the path is empty")
    return Item(
        path=path,
        labels=parse_labels(fields[columns["labels"]], separator),
        text=_text(fields, columns, "text"),
        split=split or _split(_text(fields, columns, "split")),
        group=_text(fields, columns, "group"),
        sha256=_text(fields, columns, "sha256"),
        where=where,
    )


def named_path(fields: Fields, columns: Mapping[str, str], root: Path) -> Path | None:
    """The image that a line names, also in bytes that are no UTF-8; raises DataError as `to_item`."""
    value, column = fields[columns["path"]], columns["path"]
    if isinstance(value, dict):  # as Hugging Face writes images
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) or is_data_uri(value):
        raise DataError(f"{column} holds the image itself: save it as a file and name that")
    if value is not None and not isinstance(value, str):
        raise DataError(f"{column} must be a string, not {value!r}")
    if value and scheme_of(value.strip()) not in ("", *LOCAL):
        raise DataError(f"{column} is an address, {value!r}: download the image and name the file")
    return Path(as_path(local_file(value, str(root)))) if value and value.strip() else None


def as_path(text: str) -> str:
    """Refuse what no file can be called: NUL, and lone surrogates other than those for bytes that are no UTF-8."""
    with suppress(UnicodeEncodeError):
        if b"\0" not in os.fsencode(text):
            return text
    return _valid(text)


def parse_labels(value: object, separator: str) -> tuple[str, ...]:
    """Labels from a list of strings, or from one string; spaces around a label and repetitions are removed."""
    if value is None or value != value:
        return ()
    parts = _split_text(value, separator) if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        raise DataError(f"labels must be a list of strings, not {value!r}")
    labels = []
    for part in parts:
        if not isinstance(part, str):
            raise DataError(f"a label must be a string, not {part!r}")
        labels.append(clean_label(part))
    return tuple(dict.fromkeys(label for label in labels if label))


def _split_text(text: str, separator: str) -> Sequence[object]:
    """Labels in one string, also where a program has printed its list there: `['a', 'b']` or `["a", "b"]`."""
    printed = text.strip()
    if not _PRINTED.fullmatch(printed):
        return text.split(separator)
    values = f"[{printed[1:-1]}]"
    for read in (json.loads, ast.literal_eval) if _LIST.fullmatch(printed) else ():
        with suppress(ValueError, SyntaxError):
            return list(read(values))
    raise DataError(f"labels look like a printed list, {text!r}: put {separator!r} between labels, or write JSON")


def clean_label(label: str) -> str:
    """A label without spaces around it, in Unicode's composed form; a label with a line break is refused."""
    label = unicodedata.normalize("NFC", _valid(label.strip()))
    if len(label.splitlines()) > 1:
        raise DataError(f"the label {label!r} holds a line break: remove it")
    return label


def _text(fields: Fields, columns: Mapping[str, str], meaning: str) -> str | None:
    value = fields[columns[meaning]] if meaning in columns else None
    if value is None or value != value:  # NaN, as pandas writes what is missing
        return None
    if isinstance(value, str):
        return _valid(value.strip()) or None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and meaning == "group":
        return str(whole(value))
    raise DataError(f"{columns[meaning]} must be a string, not {value!r}")


def whole(value: object) -> object:
    """A number as it was before a program wrote it with a fraction: 3 for 3.0; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _valid(text: str) -> str:
    """Refuse what JSON can express but no file or path can hold: lone surrogates and NUL."""
    if any("\udc80" <= character <= "\udcff" for character in text):
        raise DataError(f"not UTF-8: {text!r}: save the file as UTF-8")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"{text!r} is not valid text: remove the characters shown as \\")
    return text


def _split(name: str | None) -> str | None:
    if name is None:
        return None
    split = _SPLIT_ALIASES.get(name.lower(), name.lower())
    if split not in SPLITS:
        raise DataError(f"no split is called {name!r}: use one of {', '.join(SPLITS)}")
    return split
