"""Torch modules become ONNX files: encoder, head, threshold.

Every graph has one dynamic axis, the batch, and opset 18, which the onnxruntime of any Triton since 2023 reads.
Weights lie beside the graph in `model.onnx.data`. Torch's notes about source files are removed, so the same weights
give the same bytes on every machine.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mlclip.encoders.clip import Encoder
from mlclip.errors import ExportError
from mlclip.heads import Head

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
    """Write `model.onnx` of a head in evaluation mode; errors as for `write_graph`.

    Args:
        head: `head.inputs` and `head.outputs` name what goes in and comes out.
        features: an example of each input, float32, with a batch of at least 2.
        folder: an existing folder for the file and its weights.
    """
    write_graph(head, tuple(features), head.inputs, head.outputs, folder)


def threshold_input(output: str) -> str:
    """Name the input of the threshold model for a head that gives `logits` or `scores`."""
    return "logits" if output == "logits" else "head_scores"


def write_threshold(thresholds: npt.NDArray[np.float32], output: str, folder: Path) -> None:
    """Write `model.onnx` that turns a head's output into scores, a selection and a preview of the best classes.

    `scores` are the sigmoid of `logits` [B, N], or a head's own scores, which enter as `head_scores`. `selected` is
    scores >= thresholds. The best min(N, 32) classes are `top_index` int32 and `top_score`, best first.

    Args:
        thresholds: float32 [N], constants of the graph.
        output: what the head gives: `logits` or `scores`.
        folder: an existing folder.
    """
    given = threshold_input(output)
    classes, top = len(thresholds), min(len(thresholds), TOP)
    nodes = [
        helper.make_node("Sigmoid" if output == "logits" else "Identity", [given], ["scores"]),
        helper.make_node("GreaterOrEqual", ["scores", "thresholds"], ["selected"]),
        helper.make_node("TopK", ["scores", "top"], ["top_score", "top_index_int64"], axis=-1, largest=1, sorted=1),
        helper.make_node("Cast", ["top_index_int64"], ["top_index"], to=TensorProto.INT32),
    ]
    outputs = [
        _batched("scores", TensorProto.FLOAT, classes),
        _batched("selected", TensorProto.BOOL, classes),
        _batched("top_index", TensorProto.INT32, top),
        _batched("top_score", TensorProto.FLOAT, top),
    ]
    constants = [
        numpy_helper.from_array(thresholds.astype(np.float32), "thresholds"),
        numpy_helper.from_array(np.array([top], dtype=np.int64), "top"),
    ]
    graph = helper.make_graph(nodes, "threshold", [_batched(given, TensorProto.FLOAT, classes)], outputs, constants)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="mlclip")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / FILE)


def _batched(name: str, kind: int, width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["batch", width])


def write_graph(
    module: nn.Module, args: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str], folder: Path
) -> None:
    """Write `model.onnx` of any module.

    Args:
        module: returns one tensor or a tuple, batch first.
        args: an example of each input, with a batch of at least 2.
        inputs: names of the inputs.
        outputs: names of the outputs.
        folder: an existing folder for the file and its weights.

    Raises:
        ExportError: torch cannot turn it into a graph, or the arguments do not fit.
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
