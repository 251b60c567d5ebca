"""Predictions as rows: what the output files hold. README.md documents the columns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from mlclip_client.values import Answer, HeadInfo, Prediction


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


def schema(heads: Sequence[HeadInfo], options: RowOptions) -> pa.Schema:
    """Give the Arrow schema of the rows for some heads."""
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
        pa.field("error", pa.string()),
        pa.field("answers", pa.struct([pa.field(head.name, pa.struct(answer)) for head in heads])),
    ]
    if options.embeddings:  # no fixed-size list: Arrow's readers up to 25 refuse Parquet with a null one
        columns.append(pa.field("embedding", pa.list_(pa.float32())))
    return pa.schema(columns)


def to_row(prediction: Prediction, options: RowOptions) -> dict[str, Any]:
    """Turn a prediction into a row; vectors stay numpy arrays."""
    error = prediction.error
    row: dict[str, Any] = {
        "path": None if prediction.source is None else _printable(prediction.source),
        "error": None if error is None else f"{error.kind}: {_printable(str(error))}",
        "answers": {name: _answer(answer, options) for name, answer in prediction.answers.items()} or None,
    }
    if options.embeddings:
        row["embedding"] = prediction.embedding
    return row


def plain(value: Any) -> Any:
    """Turn a row into what JSON knows; float32 keeps its shortest exact decimal form."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return [float(str(item)) for item in value]
    return value


def _answer(answer: Answer, options: RowOptions) -> dict[str, Any]:
    best = {"": answer.chosen(), "top_": answer.top(options.top_k)}
    row: dict[str, Any] = {}
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


def _printable(text: str) -> str:
    """Write what a file name holds that is no UTF-8 as a backslash, x and two hex digits a byte."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")
