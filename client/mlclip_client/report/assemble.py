"""From a labels file to the page, and to the folder beside it when there are many pictures."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlclip_client.report.answers import HeadScores
from mlclip_client.report.columns import Columns, read_columns
from mlclip_client.report.entries import SCALE
from mlclip_client.report.missing import Reason, count_reasons
from mlclip_client.report.neighbours import nearest
from mlclip_client.report.page import as_json, render
from mlclip_client.report.pictures import Pictures
from mlclip_client.report.reasons import References
from mlclip_client.report.thumbnails import PER_PACK, Read, make_packs, mime

LIMIT = 50_000
INLINE = 2_000
"""How many thumbnails stand in the page itself."""
Progress = Callable[[str, int, int], None]
"""Called with what is done, how many are done, how many there are."""


@dataclass(frozen=True)
class Written:
    """What a report holds.

    Attributes:
        rows: how many images.
        more: the labels file has more rows than these.
        errors: images without labels.
        without_picture: why images have no thumbnail -> how many.
        folder: where further thumbnails are; it belongs to the page. None if all are in the page.
    """

    rows: int
    more: bool
    errors: int
    without_picture: Mapping[Reason, int]
    folder: Path | None


def write_report(
    source: Path,
    out: Path,
    *,
    images: Path | None = None,
    read: Read | None = None,
    classes: Sequence[Path] = (),
    limit: int = LIMIT,
    on_progress: Progress | None = None,
) -> Written:
    """Write a page about a labels file.

    The page appears whole or not at all. Thumbnails beyond the first 2,000 go into `<name of out>_files/`.

    Args:
        source: a .parquet or .jsonl file of the client's rows, a folder of .parquet parts, or a job's.
        out: the page, .html.
        images: folder that relative paths start from; by default the working folder.
        read: gives an image's bytes for a row's path where paths are not files; what it raises makes a placeholder.
        classes: labels.txt files, which name the classes of `all_scores` that no row names.
        limit: how many rows to take, from the first on.
        on_progress: called after every step.

    Raises:
        ValueError: the source cannot be read, or `out` is no name for a page.
        OSError: the page cannot be written.
    """
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"{out}: the report is an .html file in a folder that exists")
    progress = on_progress or (lambda step, done, total: None)
    columns = read_columns(source, limit, classes)
    root = images or Path()
    name = hashlib.sha256("\n".join(map(repr, columns.paths)).encode()).hexdigest()[:12]
    ids = sorted({name for found in columns.references.values() for name in found.ids})
    own = set(columns.paths)
    pictures = [*columns.paths, *(each for each in ids if each not in own)]
    place = {path: number for number, path in enumerate(pictures)}
    with closing(Pictures(root)) as local:
        packs = make_packs(pictures, read or local, lambda done, total: progress("thumbnails", done, total))
        blocks = dict(_blocks(columns, ids, progress))
        in_page: list[list[str | None]] = []
        folder = out.with_name(f"{out.stem}_files")
        bare: list[int] = []
        for number, pack in enumerate(packs):
            bare += (number * PER_PACK + place for place, each in enumerate(pack) if each is None)
            if number < INLINE // PER_PACK:
                in_page.append(pack)
            else:
                folder.mkdir(exist_ok=True)
                _replace(folder / f"{name}-{number:05}.js", f"mlclipPack({number}, {json.dumps(pack)});\n")
    beside = len(pictures) > INLINE
    meta = {
        "id": name,
        "source": source.name,
        "rows": len(columns),
        "more": columns.more,
        "scale": SCALE,
        "pictures": {"mime": mime(), "perPack": PER_PACK, "inPage": len(in_page), "folder": folder.name},
        "originals": None if read else os.path.relpath(root, out.parent),
        "root": "." if images is None else str(images),
        "neighboursSkipped": columns.embeddings_skipped,
        "heads": [_head_facts(head, columns) for head in columns.heads],
        "references": {
            "ids": ids,
            "labels": _labels_of(ids, columns.references.values()),
            "pictures": [place[each] for each in ids],
        },
    }
    _replace(out, render(f"{source.name} – mlclip report", {"meta": as_json(meta)} | blocks, in_page))
    _remove_older(folder, name if beside else None)
    errors = sum(kind is not None for kind in columns.kinds)
    missing = [(columns.paths[row], columns.kinds[row]) for row in bare if row < len(columns)]
    reasons = count_reasons(missing, fetched=read is not None)
    return Written(len(columns), columns.more, errors, reasons, folder if beside else None)


def _blocks(columns: Columns, ids: list[str], progress: Progress) -> Iterator[tuple[str, bytes]]:
    """Name and content of every block but `meta`; numbers are little-endian."""
    yield "paths", as_json(columns.paths)
    yield "kinds", as_json(_coded(columns.kinds))
    yield "messages", as_json(_coded(columns.messages))
    if columns.hashes is not None:
        yield "hashes", as_json(columns.hashes)
    for name, numbers in (("sizes", columns.sizes), ("seconds", columns.seconds)):
        if numbers is not None:
            yield name, numbers.astype("<f8").tobytes()
    if columns.embeddings is not None:
        index, cosine = nearest(columns.embeddings, on_progress=lambda done, total: progress("neighbours", done, total))
        yield "neighbours", index.astype("<i4").tobytes()
        yield "cosines", cosine.astype("<f4").tobytes()
    place = {name: number for number, name in enumerate(ids)}
    for number, (head, scores) in enumerate(columns.heads.items()):
        yield f"{number}-starts", scores.starts.astype("<u4").tobytes()
        yield f"{number}-classes", scores.class_of.astype("<u4").tobytes()
        yield f"{number}-scores", scores.scores.astype("<u2").tobytes()
        yield f"{number}-selected", scores.selected.astype("u1").tobytes()
        yield f"{number}-answered", scores.answered.astype("u1").tobytes()
        reasons = columns.references.get(head)
        if reasons is not None:
            which = np.array([place[name] for name in reasons.ids], np.int64)[reasons.which]
            yield f"{number}-reasons", reasons.starts.astype("<u4").tobytes()
            yield f"{number}-which", which.astype("<u4").tobytes()
            yield f"{number}-weights", reasons.weights.astype("<f4").tobytes()


def _head_facts(name: str, columns: Columns) -> dict[str, Any]:
    head: HeadScores = columns.heads[name]
    return {
        "name": name,
        "classes": head.classes,
        "sources": [
            {"model": model, "version": version, "labels": digest, "images": images}
            for (model, version, digest), images in head.sources.items()
        ],
        "complete": head.complete,
        "floor": head.floor,
        "listed": head.listed,
        "notes": head.notes,
        "explains": name in columns.references,
    }


def _labels_of(ids: list[str], all_references: Any) -> list[tuple[str, ...]]:
    labels: dict[str, tuple[str, ...]] = {}
    for references in all_references:
        found: References = references
        labels |= dict(zip(found.ids, found.labels, strict=True))
    return [labels[name] for name in ids]


def _coded(values: Sequence[str | None]) -> dict[str, Any]:
    """Texts that recur, as a list of them and an index for each value, -1 for None."""
    index = {text: number for number, text in enumerate(dict.fromkeys(value for value in values if value is not None))}
    return {"texts": list(index), "index": [-1 if value is None else index[value] for value in values]}


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_older(folder: Path, name: str | None) -> None:
    """Remove the thumbnails of an older report of the same file name, and nothing else."""
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        if re.fullmatch(r"[0-9a-f]{12}-\d{5}\.js", file.name) and file.name[:12] != name:
            file.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
