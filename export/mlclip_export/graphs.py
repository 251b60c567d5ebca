"""Torch modules become ONNX files: encoder, head, threshold.

Every graph has one dynamic axis, the batch, and opset 18, which the onnxruntime of any Triton since 2023 reads.
Weights lie beside the graph in `model.onnx.data`. Torch's notes about source files are removed, so the same weights
give the same bytes on every machine.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from mlclip.calibration import EPS
from mlclip.encoders.clip import Encoder
from mlclip.errors import ExportError
from mlclip.heads import Head
from mlclip.novelty import Novelty

OPSET = 18
IR_VERSION = 10
EXPORTER = f"torch {torch.__version__}, onnxscript {version('onnxscript')}, opset {OPSET}"
"""What writes the graphs; a graph of the same weights by the same exporter can be used again."""
FILE = "model.onnx"
ENCODER_OUTPUTS = ("embedding", "tokens", "embedding_out")
TOP = 32
"""Largest number of best classes that the threshold model previews."""
_BATCH = torch.export.Dim("batch", min=1, max=4096)


class ServedEncoder(nn.Module):
    """The encoder as it is served; `embedding_out` is a copy of `embedding`."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Pixels uint8 [B, S, S, 3] to embedding [B, D], tokens [B, T, W], embedding_out [B, D].

        The cast comes first: TensorRT accepts uint8 inputs only if the next operation casts them.
        """
        embedding, tokens = self.encoder(pixels.float())
        return embedding, tokens, embedding.clone()


def write_encoder(encoder: Encoder, folder: Path) -> None:
    """Write `model.onnx` of an encoder, and its weights, into an existing folder; errors as for `write_graph`."""
    size = encoder.spec.size
    pixels = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    write_graph(ServedEncoder(encoder), (pixels,), ("pixels",), ENCODER_OUTPUTS, folder)


def write_head(head: Head, features: Sequence[Tensor], folder: Path) -> None:
    """Write `model.onnx` of a head in evaluation mode, and its weights; arguments and errors as for `write_graph`.

    `features` has an example of each of `head.inputs`, float32.
    """
    write_graph(head, tuple(features), head.inputs, head.outputs, folder)


def threshold_input(output: str) -> str:
    """Name the input of the threshold model for a head that gives `logits` or `scores`."""
    return "logits" if output == "logits" else "head_scores"


def write_threshold(
    thresholds: npt.NDArray[np.float32],
    output: str,
    folder: Path,
    calibration: npt.NDArray[np.float32] | None = None,
    novelty: Novelty | None = None,
) -> None:
    """Write `model.onnx` that turns a head's output into scores, a selection and a preview of the best classes.

    `scores` are the sigmoid of `logits` [B, N], or a head's own scores, which enter as `head_scores`, after the
    calibration, if there is one. `selected` is scores >= thresholds. The best min(N, 32) classes are `top_index` int32
    and `top_score`, best first. Novelty adds the input `embedding` [B, D] and the output `novelty` [B, 1].

    The thresholds, float32 [N], and the calibration, slopes and offsets of the logits, float32 [2, N] (see
    `mlclip.calibration`), are constants of the graph; `output` is what the head gives, `logits` or `scores`. The folder
    exists.
    """
    classes, top = len(thresholds), min(len(thresholds), TOP)
    inputs = f"float[batch, {classes}] {threshold_input(output)}"
    outputs = f"float[batch, {classes}] scores, bool[batch, {classes}] selected"
    outputs += f", int32[batch, {top}] top_index, float[batch, {top}] top_score"
    constants: dict[str, Any] = {"thresholds": thresholds.astype(np.float32), "top": np.array([top], dtype=np.int64)}
    nodes = "scores = Sigmoid(logits)" if output == "logits" else "scores = Identity(head_scores)"
    if calibration is not None:
        nodes = _CALIBRATED if output == "logits" else _LOGITS + _CALIBRATED
        constants |= {"slope": calibration[0], "offset": calibration[1]}
        constants |= {} if output == "logits" else {"least": EPS, "most": 1 - EPS, "one": 1}
    nodes += _SELECTED
    if novelty is not None:
        inputs += f", float[batch, {novelty.centres.shape[1]}] embedding"
        outputs += ", float[batch, 1] novelty"
        nodes += _NOVELTY
        constants |= novelty._asdict() | {"centres": novelty.centres.T, "zero": 0, "unit": 1, "last": np.array([-1])}
    text = f'<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}], producer_name: "mlclip">'
    model = onnx.parser.parse_model(f"{text} threshold ({inputs}) => ({outputs}) {{ {nodes} }}")
    for name, value in constants.items():
        given = np.array(value, dtype=None if isinstance(value, np.ndarray) else np.float32, order="C")
        model.graph.initializer.append(numpy_helper.from_array(given, name))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / FILE)


_SELECTED = """
    selected = GreaterOrEqual(scores, thresholds)
    top_score, order = TopK <axis = -1, largest = 1, sorted = 1> (scores, top)
    top_index = Cast <to = 6> (order)
"""
_LOGITS = """
    inside = Clip(head_scores, least, most)
    log = Log(inside)
    rest = Sub(one, inside)
    log_rest = Log(rest)
    logits = Sub(log, log_rest)
"""
_CALIBRATED = """
    scaled = Mul(logits, slope)
    moved = Add(scaled, offset)
    scores = Sigmoid(moved)
"""
_NOVELTY = """
    similarities = MatMul(embedding, centres)
    similarity = ReduceMax <keepdims = 1> (similarities, last)
    slanted = Mul(similarity, scale)
    lines = Add(slanted, shift)
    shares = Clip(lines, zero, unit)
    novelty = ReduceMean <keepdims = 1> (shares, last)
"""


def write_graph(
    module: nn.Module, args: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str], folder: Path
) -> None:
    """Write `model.onnx` of a module that returns one tensor or a tuple, batch first, and its weights.

    `args` has an example of each input, with a batch of at least 2; the folder exists. Raises ExportError if torch
    cannot turn the module into a graph, or the arguments do not fit.
    """
    module.eval()
    with quiet():
        try:
            program = torch.onnx.export(
                _trace(module, args),
                dynamo=True,
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=OPSET,
                verbose=False,
            )
        except Exception as error:  # the exporter's failures share no base class
            what = f"the head {type(module).__name__}" if isinstance(module, Head) else "the encoder"
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ExportError(f"torch cannot export {what} to ONNX: {reason}") from error
        assert program is not None
        program.save(folder / FILE, external_data=True)
    _clean(folder / FILE)


def _trace(module: nn.Module, args: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """Trace a module with a dynamic batch.

    Quick tracing runs the module's own Python, where `len(tensor)` fixes the batch and is refused. Strict tracing
    reads its bytecode and keeps such a length symbolic.
    """
    shapes = tuple({0: _BATCH} for _ in args)
    try:
        return torch.export.export(module, args, dynamic_shapes=shapes, strict=False)
    except Exception:  # refusals come as several types; if strict tracing fails too, its error is the one to show
        return torch.export.export(module, args, dynamic_shapes=shapes, strict=True)


def _clean(path: Path) -> None:
    """Remove source paths and other notes of the exporter, and name the dynamic axis `batch`."""
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    del graph.value_info[:]
    for noted in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    for value in (*graph.input, *graph.output):
        axis = value.type.tensor_type.shape.dim[0]
        if not axis.dim_param:
            raise ExportError(f"the graph's batch was fixed to {axis.dim_value} at '{value.name}': this is a bug")
        axis.dim_param = "batch"
    onnx.save(model, path)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence progress, notices and warnings of libraries; their errors are exceptions."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
