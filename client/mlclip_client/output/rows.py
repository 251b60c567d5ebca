"""Rows: what the output files contain. docs/client.md documents the columns."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from mlclip_client.errors import ClientError
from mlclip_client.options import RowOptions
from mlclip_client.values import Answer, HeadInfo, Prediction
from mlclip_client.wording import printable

Row = dict[str, Any]


_HEADS = b"mlclip_heads"


@dataclass(frozen=True)
class HeadClasses:
    """The classes of one head, as the metadata of a Parquet file of rows holds them."""

    labels: Sequence[str]  # N label names in class order, which is the order of `all_scores`
    thresholds: Sequence[float]  # N thresholds, one per label
    labels_sha256: str  # hash of the label list; rows with another hash have other classes
    version: str  # of the head; rows of another version may have other thresholds
    promise: dict[str, Any] | None = None  # see `HeadInfo`, as for `validation`
    validation: dict[str, Any] | None = None


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
    if any(head.novelty for head in heads):
        answer.append(("novelty", pa.float32()))
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
    classes = {head.name: {each.name: getattr(head, each.name) for each in fields(HeadClasses)} for head in heads}
    return pa.schema(columns, metadata={_HEADS: json.dumps(classes, ensure_ascii=False)})


def read_classes(schema: pa.Schema) -> dict[str, HeadClasses]:
    """Give the classes of each head from the metadata of a schema; empty if there is none, as for JSON lines."""
    found = json.loads((schema.metadata or {}).get(_HEADS, "{}"))
    return {name: HeadClasses(**classes) for name, classes in found.items()}


def success(prediction: Prediction, options: RowOptions) -> Row:
    """Give the part of a row that all inputs with the same bytes share; vectors stay numpy arrays."""
    answers = {name: _answer(answer, options) for name, answer in prediction.answers.items()}
    shared: Row = {"error_kind": None, "error": None, "answers": answers}
    return shared | ({"embedding": prediction.embedding} if options.embeddings else {})


def failure(error: ClientError, options: RowOptions) -> Row:
    """Give the same part for an input without an answer."""
    shared: Row = {"error_kind": error.kind, "error": printable(str(error)), "answers": None}
    return shared | ({"embedding": None} if options.embeddings else {})


def to_row(path: str, shared: Row, *, sha256: str | None = None, size: int | None = None, seconds: float = 0.0) -> Row:
    r"""Complete a row, whose `shared` part comes from `success` or `failure`.

    The input's path is written with `\xNN` for bytes that are not UTF-8. Its sha256, in hex digits, and its size in
    bytes are None if it could not be read. `seconds` are those from the start of reading to the answer, waiting
    included.
    """
    return {"path": printable(path), "sha256": sha256, "bytes": size, **shared, "seconds": np.float32(seconds)}


def fill_embeddings(rows: Sequence[Row], schema: pa.Schema) -> list[Row]:
    """Give rows without an embedding one of NaN: Arrow up to 25 cannot read null fixed-size lists from Parquet."""
    if "embedding" not in schema.names:
        return list(rows)
    missing = np.full(schema.field("embedding").type.list_size, np.nan, np.float32)
    return [row if row.get("embedding") is not None else row | {"embedding": missing} for row in rows]


def null_embedding(row: Row) -> Row:
    """Undo `fill_embeddings` for a row that was read back: null if there is no answer."""
    return row | {"embedding": None} if "embedding" in row and row["answers"] is None else row


def plain(value: Any) -> Any:
    """Turn a row into plain JSON values, each number in the shortest form that gives the same float32.

    All fractions in rows are float32, including those that are read from Parquet as Python's floats.
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


def _answer(answer: Answer, options: RowOptions) -> Row:
    row: Row = {}
    for prefix, pairs in (("", answer.chosen()), ("top_", answer.top(options.top_k))):
        row[f"{prefix}labels"] = [label for label, _ in pairs]
        row[f"{prefix}scores"] = np.array([score for _, score in pairs], dtype=np.float32)
    if options.scores:
        row["all_scores"] = answer.scores
    if options.explain and answer.references is not None:
        row["references"] = [asdict(reference) for reference in answer.references]
    if answer.novelty is not None:
        row["novelty"] = np.float32(answer.novelty)
    return row | {"labels_sha256": answer.labels_sha256, "model": answer.model, "version": answer.version}
