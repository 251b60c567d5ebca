"""ONNX files become TensorRT plans, on a machine that has TensorRT and a GPU.

A plan runs on the kind of GPU and the TensorRT version it was built with, and on nothing else; it is not compared
with torch here. Where that is too strict, onnxruntime's TensorRT accelerator builds its engines on the server.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from pathlib import Path
from typing import Any

from mlclip.errors import ExportError
from mlclip_export.accelerators import PLAN, profile
from mlclip_export.graphs import FILE


def require_tensorrt() -> str:
    """Make sure that plans can be built here.

    Returns:
        TensorRT's version.

    Raises:
        ExportError: names what is missing.
    """
    missing = []
    if importlib.util.find_spec("tensorrt") is None:
        missing.append("TensorRT (`pip install mlclip[tensorrt]`)")
    if not has_gpu():
        missing.append("an NVIDIA GPU with its driver")
    if missing:
        raise ExportError(
            f"--format tensorrt needs {' and '.join(missing)} on this machine; --accelerator tensorrt needs "
            "neither: the server then builds the engines"
        )
    return str(importlib.import_module("tensorrt").__version__)


def has_gpu() -> bool:
    """Ask NVIDIA's driver whether there is a GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def build_plan(version: Path, config: Any, fp16: bool) -> None:
    """Build `model.plan` beside `model.onnx`.

    Args:
        version: the model's version folder.
        config: the model's config; its inputs and largest batch make the optimisation profile.
        fp16: let TensorRT compute in half precision; else in full float32, without TF32.

    Raises:
        ExportError: TensorRT cannot build it.
    """
    trt = importlib.import_module("tensorrt")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(version / FILE)):
        raise ExportError(f"TensorRT cannot read {config.name}: {parser.get_error(0).desc()}")
    settings = builder.create_builder_config()
    settings.clear_flag(trt.BuilderFlag.TF32)
    if fp16:
        if not hasattr(trt.BuilderFlag, "FP16"):
            raise ExportError("TensorRT 11 builds no half precision from float32 graphs: `pip install 'tensorrt<11'`")
        settings.set_flag(trt.BuilderFlag.FP16)
    shapes = builder.create_optimization_profile()
    for name, (smallest, usual, largest) in profile(config).items():
        shapes.set_shape(name, smallest, usual, largest)
    settings.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise ExportError(f"TensorRT could not build a plan of {config.name}; its messages stand above")
    (version / PLAN).write_bytes(plan)
