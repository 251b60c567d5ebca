"""The rows as columns: what the page shows of every image, apart from scores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from mlclip_client.report import rows
from mlclip_client.report.answers import HeadCollector, HeadScores
from mlclip_client.report.neighbours import MAX_ROWS
from mlclip_client.report.reasons import References

KINDS = ("decode", "too large", "read", "download", "unavailable", "deadline", "server", "head")


@dataclass(frozen=True)
class Columns:
    """All that the rows say.

    Attributes:
        paths: as in the rows; None for images from memory.
        kinds: kind of error, None where there is none.
        messages: the error's text.
        hashes: sha256 in hex, if the rows have it.
        sizes: bytes of the file, NaN where unknown, if the rows have it.
        seconds: time each image took, likewise.
        heads: head name -> its scores.
        references: head name -> the images behind its answers, for heads that name any.
        embeddings: float32 [rows, D], NaN where an image has none, if the rows have them.
        embeddings_skipped: they were there, but of too many rows, or of different lengths.
        more: the file has more rows than these.
    """

    paths: list[str | None]
    kinds: list[str | None]
    messages: list[str | None]
    hashes: list[str | None] | None
    sizes: npt.NDArray[np.float64] | None
    seconds: npt.NDArray[np.float64] | None
    heads: dict[str, HeadScores]
    references: dict[str, References]
    embeddings: npt.NDArray[np.float32] | None
    embeddings_skipped: bool
    more: bool

    def __len__(self) -> int:
        return len(self.paths)


def read_columns(source: Path, limit: int, classes: Sequence[Path] = ()) -> Columns:
    """Read a labels file.

    Args:
        source: a .parquet or .jsonl file, a folder of .parquet parts, or a job's.
        limit: how many rows to take, from the first on.
        classes: labels.txt files that give all classes of a head their names.

    Raises:
        ValueError: it cannot be read, or there is no row in it.
    """
    given = dict(_label_list(path) for path in classes)
    values: dict[str, list[Any]] = {name: [] for name in ("path", "error_kind", "error", "sha256", "bytes", "seconds")}
    heads: dict[str, HeadCollector] = {}
    embeddings = _Embeddings()
    count = 0
    more = False
    for batch in rows.read_batches(source, limit + 1):
        if count + len(batch) > limit:
            batch, more = batch[: limit - count], True
        for name, column in values.items():
            found = rows.field(batch, name)
            column += [None] * len(batch) if found is None else found.to_pylist()
        _add_answers(rows.field(batch, "answers"), heads, count, source)
        embeddings.add(rows.field(batch, "embedding"), count)
        count += len(batch)
    if not count:
        raise ValueError(f"{source}: there is no row in it")
    kinds, messages = zip(*map(_error, values["error_kind"], values["error"]), strict=True)
    return Columns(
        paths=[None if path is None else str(path) for path in values["path"]],
        kinds=list(kinds),
        messages=list(messages),
        hashes=_if_any(values["sha256"]),
        sizes=_numbers(values["bytes"]),
        seconds=_numbers(values["seconds"]),
        heads={name: head.finish(count, given) for name, head in heads.items()},
        references={name: found for name, head in heads.items() if (found := head.reasons.finish(count))},
        embeddings=embeddings.finish(count),
        embeddings_skipped=embeddings.skipped,
        more=more,
    )


def _label_list(path: Path) -> tuple[str, tuple[str, ...]]:
    try:
        data = path.read_bytes()
        return hashlib.sha256(data).hexdigest(), tuple(data.decode().rstrip("\n").split("\n"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8") from error


def _add_answers(answers: pa.StructArray | None, heads: dict[str, HeadCollector], first: int, source: Path) -> None:
    if answers is None:
        return
    for name in [answers.type.field(index).name for index in range(answers.type.num_fields)]:
        said = rows.field(answers, name)
        if said is not None:
            try:
                heads.setdefault(name, HeadCollector()).add(said, first)
            except (ValueError, pa.ArrowException) as error:
                raise ValueError(f"{source}, after row {first:,}, head {name}: {error}") from error


def _error(kind: object, message: object) -> tuple[str | None, str | None]:
    """Take kind and message apart where an older client wrote `kind: message`."""
    text = None if message is None else str(message)
    if kind is not None:
        return str(kind), text or ""
    if text is None:
        return None, None
    before, colon, after = text.partition(": ")
    return (before, after) if colon and before in KINDS else ("error", text)


def _if_any(values: list[Any]) -> list[str | None] | None:
    return values if any(value is not None for value in values) else None


def _numbers(values: list[Any]) -> npt.NDArray[np.float64] | None:
    known = _if_any(values)
    return None if known is None else np.array([np.nan if value is None else value for value in known], np.float64)


class _Embeddings:
    """Collects embeddings as long as there are few enough of them to compare."""

    def __init__(self) -> None:
        self.skipped = False
        self._chunks: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]] = []

    def add(self, lists: pa.Array | None, first: int) -> None:
        if lists is None or self.skipped:
            return
        images, numbers = rows.items(lists)
        if not len(images):
            return
        places = np.unique(images)
        widths = {len(images) / len(places), *(chunk.shape[1] for _, chunk in self._chunks)}
        even = len(set(np.bincount(images)[places].tolist())) == 1
        self.skipped = len(widths) > 1 or not even or first + len(lists) > MAX_ROWS
        if self.skipped:
            self._chunks.clear()
        else:
            self._chunks.append((places + first, rows.floats(numbers).reshape(len(places), -1)))

    def finish(self, count: int) -> npt.NDArray[np.float32] | None:
        if not self._chunks:
            return None
        whole = np.full((count, self._chunks[0][1].shape[1]), np.nan, np.float32)
        for places, chunk in self._chunks:
            whole[places] = chunk
        return whole
