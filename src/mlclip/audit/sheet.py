"""The list in which a person decides about doubts, and how its decisions are applied.

A CSV file with one line per doubt, and a page with the pictures beside it. A person writes `add`, `remove` or `keep`
into the column `decision`; an empty one means undecided, and changes nothing.
"""

import csv
import html
import io
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
from mlclip.data.text_files import columns, relative_to, write_text
from mlclip.errors import DataError

COLUMNS = (
    "path", "label", "kind", "score", "probability", "agreement", "suspected", "image_score",
    "given", "suggested", "decision",
)  # fmt: skip
DECISIONS = ("keep", "add", "remove")
SEPARATOR = "|"


@dataclass(frozen=True)
class Applied:
    """The corrected dataset, and how many labels decisions added and removed.

    `kept` counts the decisions that were `keep` or changed nothing, `undecided` the lines without a decision.
    """

    dataset: Dataset
    added: int
    removed: int
    kept: int
    undecided: int


def write_sheet(path: Path, dataset: Dataset, doubts: Sequence[Doubt], selected: npt.NDArray[np.bool_]) -> None:
    """Write the list as CSV, image paths relative to it, and as `.html` of the same name.

    `selected`, bool [R, N], has the labels that heads suggest for the R images.
    """
    name = relative_to(path.parent)
    lines = [_line(name(dataset.items[doubt.row].path), dataset, doubt, selected) for doubt in doubts]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, COLUMNS)
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, [table.getvalue()])
    write_text(path.with_suffix(".html"), [_page(lines)])


def apply_sheet(path: Path, dataset: Dataset) -> Applied:
    """Correct a dataset by the decisions in a list.

    Raises DataError if the list names an image or a label that the data lacks, or has any other decision.
    """
    folder_of = cache(Path.resolve)
    places = {folder_of(item.path.parent) / item.path.name: row for row, item in enumerate(dataset.items)}
    labels = [dict.fromkeys(item.labels) for item in dataset.items]
    done: Counter[str] = Counter()
    for where, (named, given, decided) in columns(path, "path", "label", "decision"):
        decision = decided.strip().lower()
        if not decision:
            done["undecided"] += 1
            continue
        if decision not in DECISIONS:
            raise DataError(f"{where}: the decision is {', '.join(DECISIONS)} or empty, not {decision!r}")
        image = path.parent / named
        row = places.get(folder_of(image.parent) / image.name)
        label = clean_label(given)
        if row is None or label not in dataset.classes:
            unknown = f"image {named}" if row is None else f"label {label!r}"
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


def _line(image: str, dataset: Dataset, doubt: Doubt, selected: npt.NDArray[np.bool_]) -> dict[str, str]:
    suggested = [dataset.classes[n] for n in np.flatnonzero(selected[doubt.row])]
    return {
        "path": image,
        "label": dataset.classes[doubt.label],
        "kind": doubt.kind,
        "score": f"{doubt.score:.4f}",
        "probability": f"{doubt.probability:.4f}",
        "agreement": f"{doubt.agreement:.2f}",
        "suspected": "yes" if doubt.suspected else "",
        "image_score": f"{doubt.image_score:.4f}",
        "given": SEPARATOR.join(dataset.items[doubt.row].labels),
        "suggested": SEPARATOR.join(suggested),
        "decision": "",
    }


def _page(lines: Sequence[dict[str, str]]) -> str:
    rows = "\n".join(
        f'<figure><img loading="lazy" src="{quote(os.fsencode(line["path"]))}"><figcaption>'
        f"<b>{html.escape(line['label'])}</b> {line['kind']} {float(line['score']):.0%}<br>"
        f"given: {_words(line['given'])}<br>suggested: {_words(line['suggested'])}<br>"
        f"<small>{html.escape(line['path'])}</small></figcaption></figure>"
        for line in lines
    )
    style = (
        "body{font:14px sans-serif;display:flex;flex-wrap:wrap;gap:12px}figure{margin:0;width:190px}"
        "img{width:180px;height:180px;object-fit:contain;background:#f4f4f4}"
    )
    return f'<!doctype html><meta charset="utf-8"><title>Label audit</title><style>{style}</style>\n{rows}\n'


def _words(labels: str) -> str:
    return html.escape(labels.replace(SEPARATOR, ", ")) or "nothing"
