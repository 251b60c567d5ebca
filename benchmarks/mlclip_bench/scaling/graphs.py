"""Cases become ONNX files, each compared with torch before any clock runs."""

import time
from pathlib import Path

import torch
from mlclip_export.graphs import ENCODER_OUTPUTS, FILE, ServedEncoder, write_encoder, write_head
from mlclip_export.parity import compare, refuse_if_apart
from torch import nn

from mlclip.encoders.clip import Encoder
from mlclip.heads import FeatureShapes, Head
from mlclip.json_lines import Line
from mlclip_bench.scaling.build import CostEstimate, build, example
from mlclip_bench.scaling.cases import ENCODER, Case

TOLERANCE = 1e-4
CHECKED_BATCHES = (1, 3)  # batches that are compared; graphs are traced with two images


def write_graph(case: Case, estimate: CostEstimate, shapes: FeatureShapes, encoder: Encoder, root: Path) -> Line:
    """Export a case into a folder of its own in `root`, compare it with torch, and give `facts` about it.

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
    return facts(folder, seconds, _difference(case, module, shapes, encoder, folder / FILE), estimate)


def facts(folder: Path, seconds: float, difference: float, estimate: CostEstimate) -> Line:
    """What raw lines say about an exported case; seconds are those of its export, the difference that from torch."""
    return {
        "file_bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "export_seconds": seconds,
        "difference": difference,
        "parameters": estimate.parameters,
        "flops": estimate.flops,
    }


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
