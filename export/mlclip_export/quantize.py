"""Encoders in int8, by NNCF: static, symmetric, weights per channel, as a QDQ graph of opset 18.

Symmetric ranges were also the better ones: on clip art a small ViT's tokens have a mean cosine of 0.9999 to
float32's with them and of 0.9993 with NNCF's default for transformers.
"""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from mlclip.errors import ExportError
from mlclip_export.graphs import FILE, quiet

_EDGE = 12
"""The first and the last of 12 parts of a tower are what is sensitive: a block of a ViT-B, three layers of a CNN."""


def attempts(source: Path) -> dict[str, list[str]]:
    """Say what of a graph may stay in float32, and name its nodes, the least first.

    Depthwise convolutions always stay: NNCF gives their inputs a scale per channel, which TensorRT does not read and
    onnxruntime runs without a kernel, five times slower than float32.
    """
    graph = onnx.load(source, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    layers = [node.name for node in products if not constants.isdisjoint(node.input)]
    attention = [node.name for node in products if constants.isdisjoint(node.input)]
    depthwise = [node.name for node in products if any(one.name == "group" and one.i > 1 for one in node.attribute)]
    edge = 1 + len(layers) // _EDGE
    parts = {"the first and the last block": layers[:edge] + layers[-edge:], "attention": attention}
    made = {"depthwise convolutions" if depthwise else "": depthwise}
    for name, nodes in parts.items():
        last, kept = next(reversed(made.items()))
        if nodes:
            made[", ".join(filter(None, (last, name)))] = list(dict.fromkeys([*kept, *nodes]))
    return made


def quantize(source: Path, folder: Path, images: npt.NDArray[np.uint8], kept: Sequence[str]) -> None:
    """Write `model.onnx` of an encoder in int8, and its weights, into an existing folder.

    `source` is the float32 graph, `images` are pixels for the calibration, uint8 [N, S, S, 3], and `kept` names nodes
    that stay in float32. Raises ExportError if NNCF is missing, or cannot quantize the graph.
    """
    with quiet():
        nncf, model = _nncf(), onnx.load(source)
        transformer = any(node.op_type == "Softmax" for node in model.graph.node)
        try:
            made = nncf.quantize(
                model,
                nncf.Dataset([{"pixels": image[None]} for image in images]),
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=len(images),
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
                ignored_scope=nncf.IgnoredScope(names=list(kept)) if kept else None,
            )
        except Exception as error:  # NNCF's and onnxruntime's failures share no base class
            raise ExportError(f"NNCF cannot quantize the encoder: {' '.join(str(error).split())}") from error
    onnx.save(made, folder / FILE, save_as_external_data=True, location=f"{FILE}.data")


def _nncf() -> Any:
    os.environ.setdefault("NNCF_CI", "1")  # NNCF otherwise reports its use to Intel
    try:
        return importlib.import_module("nncf")
    except ImportError as error:
        raise ExportError("--precision int8 needs NNCF: pip install 'mlclip[quantize]'") from error
