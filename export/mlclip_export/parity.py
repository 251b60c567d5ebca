"""Does an ONNX file compute what torch computes? Nothing that fails here is written to a repository."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from mlclip.errors import ExportError
from mlclip_export.graphs import threshold_input

Arrays = Mapping[str, npt.NDArray[Any]]
Case = tuple[Arrays, Arrays]
"""Inputs and torch's outputs, both by name, [B, ...] with any B."""

BATCHES = (1, 3, 8)
"""Batch sizes that are compared; none is the size that graphs are traced with."""


@dataclass(frozen=True)
class Difference:
    """How far an output of an exported graph lies from torch's.

    Attributes:
        model: name of the model in the repository.
        output: name of the output.
        value: largest absolute difference over all elements and batch sizes; inf where one of the two is not
            finite and the other differs.
    """

    model: str
    output: str
    value: float


def compare(model: str, path: Path, cases: Iterable[Case]) -> list[Difference]:
    """Run an ONNX file in onnxruntime on the CPU and compare each output.

    Args:
        model: its name in the repository.
        path: the ONNX file.
        cases: pairs of inputs and torch's outputs, both by name, [B, ...] with any B.

    Returns:
        One difference an output, in the order of the outputs.

    Raises:
        ExportError: onnxruntime cannot load or run the file, or a shape or type differs.
    """
    session = _open(model, path)

    def run(feeds: Arrays, names: list[str]) -> Arrays:
        return dict(zip(names, _run(model, session, feeds, names), strict=True))

    return differences_of(model, ((run(feeds, list(expected)), expected) for feeds, expected in cases))


def differences_of(model: str, pairs: Iterable[tuple[Arrays, Arrays]]) -> list[Difference]:
    """Compare outputs with torch's.

    Args:
        model: name of the model in the repository.
        pairs: what the model gave, and torch's outputs, both by name.

    Returns:
        One difference an output, the largest over all pairs and images; that of `reference_index` is inf where most
        images were answered from other references.

    Raises:
        ExportError: a shape or type differs.
    """
    worst: dict[str, float] = {}
    rows, compared = 0, 0
    for found, expected in pairs:
        same = _same_references(found, expected)
        rows, compared = rows + len(same), compared + int(same.sum())
        for name in expected:
            pair = [outputs[name][same] for outputs in (found, expected)]
            if name == "reference_index":  # equally heavy references may come in either order
                references = 1 + max(int(found[name].max()), int(expected[name].max()))
                pair = [_by_reference(outputs, references)[same] for outputs in (found, expected)]
            worst[name] = max(worst.get(name, 0.0), _distance(model, name, *pair))
    if 2 * compared < rows:
        worst["reference_index"] = float("inf")
    return [Difference(model, name, value) for name, value in worst.items()]


def refuse_if_apart(differences: Sequence[Difference], tolerance: float) -> None:
    """Refuse a model that computes something else than torch.

    Raises:
        ExportError: a difference is above the tolerance; the message names the worst one.
    """
    worst = max(differences, key=lambda difference: difference.value)
    if worst.value > tolerance:
        raise ExportError(
            f"{worst.model}: output '{worst.output}' of the exported graph differs from torch by {worst.value:.3g}, "
            f"more than {tolerance:g}; nothing was written (--tolerance allows more)"
        )


def compare_threshold(model: str, path: Path, thresholds: npt.NDArray[np.float32], output: str) -> list[Difference]:
    """Check a threshold model: scores against torch's sigmoid, or what came in, and the rest against those scores.

    What comes in is drawn with a fixed seed. A score within rounding of its threshold may fall on either side, so
    `selected` is compared with what the model's own scores say, and `top_index` with where they are.

    Args:
        model: its name in the repository.
        path: the ONNX file.
        thresholds: float32 [N].
        output: what the head gives: `logits` or `scores`.

    Returns:
        One difference an output; for `selected` 1.0 where any class differs.

    Raises:
        ExportError: as for `compare`.
    """
    draw = np.random.default_rng(0)
    batches = [draw.normal(scale=4, size=(size, len(thresholds))).astype(np.float32) for size in BATCHES]
    names = ["scores", "selected", "top_index", "top_score"]
    session, worst = _open(model, path), dict.fromkeys(names, 0.0)
    for logits in batches:
        scored = torch.sigmoid(torch.from_numpy(logits)).numpy()
        given = logits if output == "logits" else scored
        found = dict(zip(names, _run(model, session, {threshold_input(output): given}, names), strict=True))
        scores, index = found["scores"], found["top_index"]
        best = np.sort(scores, axis=1)[:, ::-1][:, : index.shape[1]]
        expected = {
            "scores": scored,
            "selected": scores >= thresholds,
            "top_score": best,
        }
        for name, value in expected.items():
            worst[name] = max(worst[name], _distance(model, name, found[name], value))
        picked = np.take_along_axis(scores, index.astype(np.int64), axis=1)
        worst["top_index"] = max(worst["top_index"], _distance(model, "top_index", picked, best))
    return [Difference(model, name, value) for name, value in worst.items()]


def _open(model: str, path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # slow where cores are shared
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ExportError(f"onnxruntime cannot load {model}, nothing was written: {_one_line(error)}") from error


def _run(
    model: str, session: onnxruntime.InferenceSession, feeds: Arrays, names: Sequence[str]
) -> list[npt.NDArray[Any]]:
    try:
        found: list[npt.NDArray[Any]] = session.run(list(names), dict(feeds))
    except Exception as error:  # as above
        raise ExportError(f"onnxruntime cannot run {model}, nothing was written: {_one_line(error)}") from error
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _same_references(found: Arrays, expected: Arrays) -> npt.NDArray[np.bool_]:
    """Tell which images were answered from the same references: bool [B]; all, where a head names none.

    A reference at the very edge of a search, last of the neighbours or just within the allowed difference, falls to
    either side with the last bit of its similarity. Such images are not compared, as long as they are few.
    """
    if "reference_index" not in expected:
        return np.ones(len(next(iter(expected.values()))), dtype=np.bool_)
    references = 1 + max(int(outputs["reference_index"].max()) for outputs in (found, expected))
    taken = [_by_reference(outputs, references) > 0 for outputs in (found, expected)]
    same: npt.NDArray[np.bool_] = (taken[0] == taken[1]).all(axis=1)
    return same


def _by_reference(outputs: Arrays, references: int) -> npt.NDArray[Any]:
    """Lay the weights of the references out by their index: float32 [B, references]."""
    index, weight = outputs["reference_index"], outputs["reference_weight"]
    laid_out = np.zeros((len(index), references), dtype=np.float32)
    np.add.at(laid_out, (np.arange(len(index))[:, None], index), weight)
    return laid_out


def _distance(model: str, name: str, found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ExportError(
            f"{model}: output '{name}' of the exported graph is {found.dtype} {list(found.shape)}, torch's is "
            f"{expected.dtype} {list(expected.shape)}; nothing was written"
        )
    if found.size == 0 or np.array_equal(found, expected):
        return 0.0
    apart = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    return float("inf") if not np.isfinite(apart).all() else float(apart.max())
