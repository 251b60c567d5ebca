"""From a labels file to the page, and to the folder beside it if there are many pictures."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlclip_client.files import replacing
from mlclip_client.options import REPORT_ROWS
from mlclip_client.output.files import check_output
from mlclip_client.report.answers import HeadScores
from mlclip_client.report.columns import Columns, read_columns
from mlclip_client.report.entries import SCALE
from mlclip_client.report.neighbours import nearest
from mlclip_client.report.page import as_json, render
from mlclip_client.report.pictures import PER_PACK, Pictures, Read, Reason, make_packs, mime, why_missing
from mlclip_client.wording import printable

INLINE = 2_000
"""How many thumbnails stand in the page itself."""
OnProgress = Callable[[str, int, int], None]
"""Called with the name of a step, how many it has done, and how many there are."""
Show = Literal["clear", "blurred", "none"]
"""Pictures as they are, blurred until the reader asks for them, or not in the page at all."""


@dataclass(frozen=True)
class Written:
    """What a report holds.

    Attributes:
        more: whether the labels file has more rows than these.
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
    limit: int = REPORT_ROWS,
    show: Show = "clear",
    on_progress: OnProgress | None = None,
) -> Written:
    """Write a page about a labels file.

    The page appears whole or not at all. Thumbnails beyond the first 2,000 go into `<name of out>_files/`.

    Args:
        source: a .parquet or .jsonl file of the client's rows, a folder of .parquet parts, or a job's.
        out: the page, .html.
        images: folder that relative paths start from; by default the working folder.
        read: gives an image's bytes for a row's path if paths are not files; if it raises, the page has a placeholder.
        limit: how many rows to take, from the first on.
        show: how pictures appear; with `none`, no picture is read, and the page links no image.
        on_progress: called after every step.

    Raises:
        ValueError: the source cannot be read, or the page cannot be written there.
    """
    check_output(out, ".html", ".htm")
    progress = on_progress or (lambda step, done, total: None)
    columns = read_columns(source, limit)
    root, folder = images or Path(), out.with_name(f"{out.stem}_files")
    name = hashlib.sha256("\n".join(map(repr, columns.paths)).encode()).hexdigest()[:12]
    references = {name for head in columns.heads.values() if head.references for name in head.references.labels}
    pictures = [*columns.paths, *sorted(references - set(columns.paths))] if show != "none" else []
    blocks = dict(_blocks(columns, progress))
    in_page: list[list[str | None]] = []
    bare: list[int] = []
    with closing(Pictures(root)) as local:
        packs = make_packs(pictures, read or local, lambda done, total: progress("thumbnails", done, total))
        for number, pack in enumerate(packs):
            bare += (number * PER_PACK + place for place, each in enumerate(pack) if each is None)
            if number < INLINE // PER_PACK:
                in_page.append(pack)
            else:
                folder.mkdir(exist_ok=True)
                with replacing(folder / f"{name}-{number:05}.js") as script:
                    script.write(f"mlclipPack({number}, {json.dumps(pack)});\n".encode("ascii"))
    place = {path: number for number, path in enumerate(pictures)}
    meta = {
        "id": name,
        "source": source.name,
        "rows": len(columns),
        "more": columns.more,
        "scale": SCALE,
        "pictures": {"mime": mime(), "perPack": PER_PACK, "inPage": len(in_page), "folder": folder.name},
        "show": show,
        "originals": None if read or show == "none" else os.path.relpath(root, out.parent),
        "root": "." if images is None else str(images),
        "neighboursSkipped": columns.embeddings_skipped,
        "heads": [_head_facts(name, head, place) for name, head in columns.heads.items()],
    }
    with replacing(out) as page:
        title = f"{printable(source.name)} – mlclip report"
        page.write(render(title, {"meta": as_json(meta)} | blocks, in_page).encode())
    beside = len(pictures) > INLINE
    _remove_older(folder, name if beside else None)
    return Written(
        rows=len(columns),
        more=columns.more,
        errors=len(columns) - columns.kinds.count(None),
        without_picture=Counter(
            why_missing(columns.paths[row], columns.kinds[row], fetched=read is not None)
            for row in bare
            if row < len(columns)
        ),
        folder=folder if beside else None,
    )


def _blocks(columns: Columns, progress: OnProgress) -> Iterator[tuple[str, bytes]]:
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
    for number, head in enumerate(columns.heads.values()):
        yield f"{number}-starts", head.starts.astype("<u4").tobytes()
        yield f"{number}-classes", head.class_of.astype("<u4").tobytes()
        yield f"{number}-scores", head.scores.astype("<u2").tobytes()
        yield f"{number}-selected", head.selected.astype("u1").tobytes()
        yield f"{number}-answered", head.answered.astype("u1").tobytes()
        if np.isfinite(head.novelty).any():
            yield f"{number}-novelty", head.novelty.astype("<f4").tobytes()
        if (reasons := head.references) is not None:
            yield f"{number}-reasons", reasons.starts.astype("<u4").tobytes()
            yield f"{number}-which", reasons.which.astype("<u4").tobytes()
            yield f"{number}-weights", reasons.weights.astype("<f4").tobytes()


def _head_facts(name: str, head: HeadScores, place: Mapping[str | None, int]) -> dict[str, Any]:
    """What the page says about a head; `place`: the number of each picture."""
    references = head.references.labels.items() if head.references else ()
    return {
        "name": name,
        "classes": head.classes,
        "thresholds": head.thresholds,
        "promise": head.known.promise if head.known and head.thresholds is not None else None,
        "sources": [
            {"model": model, "version": version, "labels": digest, "images": images}
            for (model, version, digest), images in head.sources.items()
        ],
        "complete": head.complete,
        "floor": head.floor,
        "listed": head.listed,
        "notes": head.notes,
        "references": [{"id": each, "labels": labels, "picture": place.get(each)} for each, labels in references],
    }


def _coded(values: Sequence[str | None]) -> dict[str, Any]:
    """Recurring texts as a list, and an index into it for each value, -1 for None."""
    index = {text: number for number, text in enumerate(dict.fromkeys(value for value in values if value is not None))}
    return {"texts": list(index), "index": [-1 if value is None else index[value] for value in values]}


def _remove_older(folder: Path, name: str | None) -> None:
    """Remove the thumbnails of an older report under the same file name, and nothing else."""
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        if re.fullmatch(r"[0-9a-f]{12}-\d{5}\.js", file.name) and file.name[:12] != name:
            file.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
