"""The comparison of exported models with torch; only graphs that were compared can be written to a repository."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from mlclip.calibration import calibrated
from mlclip.errors import ExportError
from mlclip.novelty import Novelty
from mlclip_export.graphs import threshold_input

Arrays = Mapping[str, npt.NDArray[Any]]
Case = tuple[Arrays, Arrays]
"""Inputs and torch's outputs, both by name, [B, ...] with any B."""

BATCHES = (1, 3, 8)
"""Batch sizes that are compared; none is the size that graphs are traced with."""


@dataclass(frozen=True)
class Difference:
    """Largest deviation of an output of an exported model from torch.

    Attributes:
        model: name of the model in the repository.
        output: name of the output.
        value: largest absolute difference over all elements and batch sizes; inf if either value is not finite and
            the other differs.
    """

    model: str
    output: str
    value: float


@dataclass(frozen=True)
class Graph:
    """A model's ONNX file, or the files of its Python model, before the comparison with torch."""

    model: str  # its name in the repository
    folder: Path  # holds its files and nothing else
    compare: Callable[[], list[Difference]]  # measures the largest deviation of each output from torch
    # writes the files again; None unless they are copies from an earlier export
    rebuild: Callable[[], None] | None = None
    parameters: Mapping[str, str] | None = None  # settings for the config of a Python model; None for an ONNX file


class CheckedGraph:
    """A graph that computes what torch computes. Creating one is the comparison, so no other kind exists.

    `differences` has one per output; `files`, name to path, go into the version's folder. The rest is as in `Graph`.
    """

    def __init__(self, graph: Graph, tolerance: float) -> None:
        """Compare a graph with torch; raises ExportError if an output differs by more than `tolerance`.

        A copy from an earlier export that fails is rebuilt and compared again.
        """
        self.model, self.parameters = graph.model, graph.parameters
        try:
            self.differences = _compare(graph, tolerance)
        except ExportError:
            if graph.rebuild is None:
                raise
            graph.rebuild()
            self.differences = _compare(graph, tolerance)
        self.files = {path.name: path for path in sorted(graph.folder.iterdir())}


def _compare(graph: Graph, tolerance: float) -> list[Difference]:
    differences = graph.compare()
    refuse_if_apart(differences, tolerance)
    return differences


def compare(model: str, path: Path, cases: Iterable[Case]) -> list[Difference]:
    """Run an ONNX file in onnxruntime on the CPU and compare each output, in their order, with torch's.

    `model` is its name in the repository. Raises ExportError if onnxruntime cannot load or run the file, or if a shape
    or type differs.
    """
    session = open_graph(model, path)
    return differences_of(model, ((_run(model, session, feeds, list(expected)), expected) for feeds, expected in cases))


def differences_of(model: str, pairs: Iterable[Case]) -> list[Difference]:
    """Compare a model's outputs with torch's, in pairs of both: the largest difference of each over all images.

    That of `reference_index` is inf if most images were answered from other references. Raises ExportError if a shape
    or type differs.
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
    """Raise ExportError if a model computes something different from torch; the message names the worst output."""
    worst = max(differences, key=lambda difference: difference.value)
    if worst.value > tolerance:
        raise ExportError(
            f"{worst.model}: output '{worst.output}' of the exported graph differs from torch by {worst.value:.3g}, "
            f"more than {tolerance:g}; nothing was written (--tolerance allows more)"
        )


def compare_threshold(
    model: str,
    path: Path,
    thresholds: npt.NDArray[np.float32],
    output: str,
    calibration: npt.NDArray[np.float32] | None = None,
    novelty: Novelty | None = None,
) -> list[Difference]:
    """Compare a threshold model: scores with torch's sigmoid, the scores that come in or the calibrated ones.

    The rest is compared with those scores. Inputs are drawn with a fixed seed. A score within rounding of its threshold
    may fall on either side, so `selected` and `top_index` are compared with what the model's own scores say; the
    difference of `selected` is 1.0 if any class differs. The other arguments are those of `write_threshold`, the errors
    those of `compare`.
    """
    draw, session = np.random.default_rng(0), open_graph(model, path)
    pairs = []
    for size in BATCHES:
        logits = draw.normal(scale=4, size=(size, len(thresholds))).astype(np.float32)
        scores = torch.sigmoid(torch.from_numpy(logits)).numpy()
        given = logits if output == "logits" else scores
        scores = scores if calibration is None else calibrated(given, output, calibration)
        feeds, names = {threshold_input(output): given}, ["scores", "selected", "top_index", "top_score"]
        further = {}
        if novelty is not None:
            near = novelty.centres[draw.integers(len(novelty.centres), size=size)]
            feeds["embedding"] = (near * draw.random((size, 1))).astype(np.float32)
            names, further = [*names, "novelty"], {"novelty": novelty(feeds["embedding"])}
        found = _run(model, session, feeds, names)
        best = np.sort(found["scores"], axis=1)[:, ::-1][:, : found["top_index"].shape[1]]
        picked = np.take_along_axis(found["scores"], found["top_index"].astype(np.int64), axis=1)
        selected = found["scores"] >= thresholds
        expected = {"scores": scores, "selected": selected, "top_index": best, "top_score": best} | further
        pairs.append(({**found, "top_index": picked}, expected))
    return differences_of(model, pairs)


def open_graph(model: str, path: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file in onnxruntime on the CPU; raises ExportError with the model's name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # slow where cores are shared
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ExportError(f"onnxruntime cannot load {model}, nothing was written: {_one_line(error)}") from error


def _run(model: str, session: onnxruntime.InferenceSession, feeds: Arrays, names: list[str]) -> Arrays:
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:  # as above
        raise ExportError(f"onnxruntime cannot run {model}, nothing was written: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _same_references(found: Arrays, expected: Arrays) -> npt.NDArray[np.bool_]:
    """Tell which images were answered from the same references: bool [B]; all, if a head names none.

    The last bit of a similarity decides whether a reference at the edge of a search belongs to the answer. Such images
    are not compared, as long as they are few.
    """
    if "reference_index" not in expected:
        return np.ones(len(next(iter(expected.values()))), dtype=np.bool_)
    references = 1 + max(int(outputs["reference_index"].max()) for outputs in (found, expected))
    taken = [_by_reference(outputs, references) > 0 for outputs in (found, expected)]
    same: npt.NDArray[np.bool_] = (taken[0] == taken[1]).all(axis=1)
    return same


def _by_reference(outputs: Arrays, references: int) -> npt.NDArray[Any]:
    """Arrange the references' weights by their index: float32 [B, references]."""
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
