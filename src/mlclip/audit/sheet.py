"""The list that a person goes through, and what becomes of the decisions in it.

A CSV with a line a doubt, and a page with the pictures beside it. In the column `decision` a person writes `add`,
`remove` or `keep`; nothing means that nobody has looked yet, and changes nothing either.
"""

from __future__ import annotations

import csv
import html
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from mlclip.audit.doubts import Doubt
from mlclip.data import Dataset
from mlclip.data.rows import clean_label
from mlclip.errors import DataError

COLUMNS = (
    "path", "label", "kind", "score", "probability", "agreement", "suspected", "image_score",
    "given", "suggested", "decision",
)  # fmt: skip
DECISIONS = ("keep", "add", "remove")
SEPARATOR = "|"


@dataclass(frozen=True)
class Applied:
    """What decisions did to a dataset.

    Attributes:
        dataset: corrected.
        added: labels that were added.
        removed: labels that were removed.
        kept: decisions to keep things as they are, or that changed nothing.
        undecided: lines without a decision.
    """

    dataset: Dataset
    added: int
    removed: int
    kept: int
    undecided: int


def write_sheet(path: Path, dataset: Dataset, doubts: Sequence[Doubt], selected: npt.NDArray[np.bool_]) -> None:
    """Write the list as CSV, image paths relative to it, and as `.html` of the same name.

    Args:
        path: the CSV file.
        dataset: R images.
        doubts: the lines, in order.
        selected: bool [R, N]: the labels that heads suggest.

    Raises:
        DataError: a file cannot be written.
    """
    lines = [_line(path, dataset, doubt, selected) for doubt in doubts]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(lines)
        path.with_suffix(".html").write_text(_page(lines), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def apply_sheet(path: Path, dataset: Dataset) -> Applied:
    """Correct a dataset by the decisions in a list.

    Raises:
        DataError: the list cannot be read, names an image or a label that the data does not have, or decides
            something else than `keep`, `add` or `remove`.
    """
    folder_of = cache(Path.resolve)
    places = {folder_of(item.path.parent) / item.path.name: row for row, item in enumerate(dataset.items)}
    labels = [dict.fromkeys(item.labels) for item in dataset.items]
    done: Counter[str] = Counter()
    for where, line in _read(path):
        decision = (line["decision"] or "").strip().lower()
        if not decision:
            done["undecided"] += 1
            continue
        if decision not in DECISIONS:
            raise DataError(f"{where}: the decision is {', '.join(DECISIONS)} or nothing, not {decision!r}")
        image = path.parent / line["path"]
        row = places.get(folder_of(image.parent) / image.name)
        label = clean_label(line["label"])
        if row is None or label not in dataset.classes:
            unknown = f"image {line['path']}" if row is None else f"label {label!r}"
            raise DataError(f"{where}: the data has no {unknown}: give the data that was audited")
        if decision == "keep" or (label in labels[row]) == (decision == "add"):
            done["keep"] += 1
        elif decision == "add":
            labels[row][label] = None
            done["add"] += 1
        else:
            del labels[row][label]
            done["remove"] += 1
    items = (replace(item, labels=tuple(own)) for item, own in zip(dataset.items, labels, strict=True))
    return Applied(replace(dataset, items=tuple(items)), done["add"], done["remove"], done["keep"], done["undecided"])


def _line(path: Path, dataset: Dataset, doubt: Doubt, selected: npt.NDArray[np.bool_]) -> dict[str, str]:
    item = dataset.items[doubt.row]
    image = os.path.relpath(item.path.parent.resolve() / item.path.name, path.parent.resolve())
    suggested = [dataset.classes[n] for n in np.flatnonzero(selected[doubt.row])]
    return {
        "path": Path(image).as_posix(),
        "label": dataset.classes[doubt.label],
        "kind": doubt.kind,
        "score": f"{doubt.score:.4f}",
        "probability": f"{doubt.probability:.4f}",
        "agreement": f"{doubt.agreement:.2f}",
        "suspected": "yes" if doubt.suspected else "",
        "image_score": f"{doubt.image_score:.4f}",
        "given": SEPARATOR.join(item.labels),
        "suggested": SEPARATOR.join(suggested),
        "decision": "",
    }


def _read(path: Path) -> list[tuple[str, dict[str, str]]]:
    needed = {"path", "label", "decision"}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if not needed <= set(reader.fieldnames or ()):
                raise DataError(f"{path}: no audit list: it needs the columns {', '.join(sorted(needed))}")
            return [(f"{path}:{reader.line_num}", line) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _page(lines: Sequence[dict[str, str]]) -> str:
    rows = "\n".join(
        f'<figure><img loading="lazy" src="{quote(line["path"])}"><figcaption><b>{html.escape(line["label"])}</b> '
        f"{line['kind']} {float(line['score']):.0%}<br>given: {_words(line['given'])}<br>"
        f"suggested: {_words(line['suggested'])}<br><small>{html.escape(line['path'])}</small></figcaption></figure>"
        for line in lines
    )
    style = (
        "body{font:14px sans-serif;display:flex;flex-wrap:wrap;gap:12px}figure{margin:0;width:190px}"
        "img{width:180px;height:180px;object-fit:contain;background:#f4f4f4}"
    )
    return f'<!doctype html><meta charset="utf-8"><title>Label audit</title><style>{style}</style>\n{rows}\n'


def _words(labels: str) -> str:
    return html.escape(labels.replace(SEPARATOR, ", ")) or "nothing"
