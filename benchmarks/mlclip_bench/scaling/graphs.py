"""Cases become ONNX files, each compared with torch before any clock runs."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from mlclip_export.graphs import ENCODER_OUTPUTS, FILE, ServedEncoder, write_encoder, write_head
from mlclip_export.parity import compare, refuse_if_apart
from torch import nn

from mlclip.encoders.clip import Encoder
from mlclip.heads import FeatureShapes, Head
from mlclip_bench.scaling.build import CostEstimate, build, example
from mlclip_bench.scaling.cases import ENCODER, Case

TOLERANCE = 1e-4
CHECKED_BATCHES = (1, 3)  # batches that are compared; graphs are traced with two images


@dataclass(frozen=True)
class Graph:
    """An exported case."""

    file: Path  # the ONNX file; its weights lie beside it
    file_bytes: int  # of both together
    export_seconds: float  # from a head in memory to its files, without the comparison with torch
    difference: float  # largest absolute deviation of onnxruntime's output from torch's
    parameters: int
    flops: int

    def to_dict(self) -> dict[str, float]:
        """All but the file, as plain JSON values."""
        facts: dict[str, float] = asdict(self)
        del facts["file"]
        return facts


def write_graph(case: Case, estimate: CostEstimate, shapes: FeatureShapes, encoder: Encoder, root: Path) -> Graph:
    """Export a case into a folder of its own in `root`, and compare it with torch.

    Raises ExportError if that fails, ValueError if the encoder lacks what the head reads.
    """
    folder = root / case.key
    folder.mkdir(exist_ok=True)
    module: Encoder | Head = encoder if case.kind == ENCODER else build(case, shapes)
    started = time.perf_counter()
    if isinstance(module, Head):
        write_head(module, example(case, module, shapes, 2, encoder), folder)
    else:
        write_encoder(module, folder)
    seconds = time.perf_counter() - started
    difference = _difference(case, module, shapes, encoder, folder / FILE)
    size = sum(file.stat().st_size for file in folder.iterdir())
    return Graph(folder / FILE, size, seconds, difference, estimate.parameters, estimate.flops)


def _difference(case: Case, module: Encoder | Head, shapes: FeatureShapes, encoder: Encoder, file: Path) -> float:
    served: nn.Module = module if isinstance(module, Head) else ServedEncoder(module)
    inputs = module.inputs if isinstance(module, Head) else ("pixels",)
    outputs = module.outputs if isinstance(module, Head) else ENCODER_OUTPUTS
    pairs = []
    for batch in CHECKED_BATCHES:
        given = example(case, module, shapes, batch, encoder)
        with torch.no_grad():
            found = served(*given)
        tensors = found if isinstance(found, tuple) else (found,)
        feeds = {name: tensor.numpy() for name, tensor in zip(inputs, given, strict=True)}
        pairs.append((feeds, {name: tensor.numpy() for name, tensor in zip(outputs, tensors, strict=True)}))
    differences = compare(case.key, file, pairs)
    refuse_if_apart(differences, TOLERANCE)
    return max(difference.value for difference in differences if difference.output != "reference_index")
