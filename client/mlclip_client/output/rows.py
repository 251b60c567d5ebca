"""Rows: what the output files hold. README.md documents the columns."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from mlclip_client.errors import BadImage, ClientError
from mlclip_client.values import Answer, HeadInfo, Prediction

Row = dict[str, Any]
REJECTED_KINDS = frozenset({"decode", "too large", "read", "download"})
"""Kinds of errors that lie in the input."""
KINDS = REJECTED_KINDS | {"unavailable", "deadline", "busy", "server"}
"""All kinds of errors that rows have; the others lie in the server or the way there."""


@dataclass(frozen=True)
class RowOptions:
    """Which columns rows have.

    Attributes:
        top_k: how many best labels to list whether selected or not.
        scores: also all N scores, in class order.
        embeddings: also the image's embedding.
        explain: also the references behind each answer.
    """

    top_k: int = 5
    scores: bool = False
    embeddings: bool = False
    explain: bool = False


_HEADS = b"mlclip_heads"


@dataclass(frozen=True)
class HeadClasses:
    """The classes of one head, as the metadata of a Parquet file of rows holds them.

    Attributes:
        labels: N label names in class order, which is the order of `all_scores`.
        thresholds: N thresholds, one per label.
        labels_sha256: hash of the label list; rows with another hash have other classes.
        version: of the head; rows of another version may have other thresholds.
    """

    labels: Sequence[str]
    thresholds: Sequence[float]
    labels_sha256: str
    version: str


def schema(heads: Sequence[HeadInfo], options: RowOptions) -> pa.Schema:
    """Give the Arrow schema of the rows for some heads; its metadata holds their classes, see `read_classes`."""
    scores = pa.list_(pa.float32())
    names = pa.list_(pa.string())
    answer = [("labels", names), ("scores", scores), ("top_labels", names), ("top_scores", scores)]
    if options.scores:
        answer.append(("all_scores", scores))
    if options.explain:
        reference = [("id", pa.string()), ("labels", names), ("weight", pa.float32())]
        answer.append(("references", pa.list_(pa.struct(reference))))
    answer += [("labels_sha256", pa.string()), ("model", pa.string()), ("version", pa.string())]
    columns = [
        pa.field("path", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("error_kind", pa.string()),
        pa.field("error", pa.string()),
        pa.field("answers", pa.struct([pa.field(head.name, pa.struct(answer)) for head in heads])),
        pa.field("seconds", pa.float32()),
    ]
    if options.embeddings:
        columns.append(pa.field("embedding", pa.list_(pa.float32(), heads[0].embedding_size), nullable=False))
    classes = {
        head.name: asdict(HeadClasses(head.labels, head.thresholds, head.labels_sha256, head.version)) for head in heads
    }
    return pa.schema(columns, metadata={_HEADS: json.dumps(classes, ensure_ascii=False)})


def read_classes(schema: pa.Schema) -> dict[str, HeadClasses]:
    """Give the classes of each head from the metadata of a schema; empty if there is none, as for JSON lines."""
    found = json.loads((schema.metadata or {}).get(_HEADS, "{}"))
    return {name: HeadClasses(**classes) for name, classes in found.items()}


def finding(prediction: Prediction, options: RowOptions) -> Row:
    """The part of a row that all inputs with the same bytes share, where there is an answer.

    Vectors stay numpy arrays.
    """
    answers = {name: _answer(answer, options) for name, answer in prediction.answers.items()}
    found: Row = {**_error(None), "answers": answers}
    return found | ({"embedding": prediction.embedding} if options.embeddings else {})


def failure(error: ClientError, options: RowOptions) -> Row:
    """The same for an input without an answer."""
    return {**_error(error), "answers": None, **({"embedding": None} if options.embeddings else {})}


def to_row(path: str, found: Row, *, sha256: str | None = None, size: int | None = None, seconds: float = 0.0) -> Row:
    r"""Complete a row.

    Args:
        path: of the input; bytes that are no UTF-8 are written as `\xNN`.
        found: see `finding`.
        sha256: of the input's bytes, in hex digits; None where they could not be read.
        size: how many bytes.
        seconds: from the first byte read to the answer, waiting included.
    """
    return {"path": printable(path), "sha256": sha256, "bytes": size, **found, "seconds": np.float32(seconds)}


def with_vectors(rows: Sequence[Row], schema: pa.Schema) -> list[Row]:
    """Give rows without an embedding one of NaN: Arrow's readers up to 25 refuse Parquet with null fixed-size lists."""
    if "embedding" not in schema.names:
        return list(rows)
    missing = np.full(schema.field("embedding").type.list_size, np.nan, np.float32)
    return [row if row.get("embedding") is not None else row | {"embedding": missing} for row in rows]


def without_filling(row: Row) -> Row:
    """Undo `with_vectors` for a row that was read back: null where there is no answer."""
    return row | {"embedding": None} if "embedding" in row and row["answers"] is None else row


def plain(value: Any) -> Any:
    """Turn a row into what JSON knows, each number in the shortest form that gives its float32 back.

    All numbers with a fraction in rows are float32, also those that come back from Parquet as Python's floats.
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return [float(str(item)) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(str(np.float32(value)))
    return value


def printable(text: str) -> str:
    """Write what a file name holds that is no UTF-8 as a backslash, x and two hex digits a byte."""
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON can write it
        data = text.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


def _error(error: ClientError | None) -> Row:
    if error is None:
        return {"error_kind": None, "error": None}
    assert isinstance(error, BadImage) == (error.kind in REJECTED_KINDS), error.kind
    return {"error_kind": error.kind, "error": printable(str(error))}


def _answer(answer: Answer, options: RowOptions) -> Row:
    best = {"": answer.chosen(), "top_": answer.top(options.top_k)}
    row: Row = {}
    for prefix, pairs in best.items():
        row[f"{prefix}labels"] = [label for label, _ in pairs]
        row[f"{prefix}scores"] = _vector([score for _, score in pairs])
    if options.scores:
        row["all_scores"] = answer.scores
    if options.explain and answer.references is not None:
        row["references"] = [asdict(reference) for reference in answer.references]
    return row | {"labels_sha256": answer.labels_sha256, "model": answer.model, "version": answer.version}


def _vector(values: list[float]) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)
