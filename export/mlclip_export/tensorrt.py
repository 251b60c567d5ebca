"""ONNX files become TensorRT plans, on a machine that has TensorRT and a GPU.

A plan runs only on the kind of GPU and the TensorRT version that it was built with, and is not compared with torch.
Where that is too strict, onnxruntime's TensorRT accelerator builds its engines on the server.
"""

import ctypes
import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from mlclip.errors import ExportError
from mlclip_export.gpu_variants import PLAN, profile
from mlclip_export.graphs import FILE


def require_tensorrt() -> str:
    """Give TensorRT's version; raises ExportError, which names what this machine lacks to build plans."""
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


@dataclass(frozen=True)
class Plan:
    """A TensorRT plan to be built from an ONNX file."""

    config: pb.ModelConfig  # the model's config; its inputs and largest batch give the optimisation profile
    fp16: bool  # compute in half precision; otherwise in full float32, without TF32
    tensorrt: str  # TensorRT's version

    @property
    def key(self) -> str:
        """What the plan depends on besides the ONNX file."""
        return f"tensorrt {self.tensorrt} fp16 {self.fp16}"

    def build(self, version: Path) -> None:
        """Write `model.plan` beside `model.onnx` in a version's folder; raises ExportError."""
        trt = importlib.import_module("tensorrt")
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(version / FILE)):
            raise ExportError(f"TensorRT cannot read {self.config.name}: {parser.get_error(0).desc()}")
        settings = builder.create_builder_config()
        settings.clear_flag(trt.BuilderFlag.TF32)
        if self.fp16:
            if not hasattr(trt.BuilderFlag, "FP16"):
                raise ExportError("TensorRT 11 builds no half precision from float32: `pip install 'tensorrt<11'`")
            settings.set_flag(trt.BuilderFlag.FP16)
        shapes = builder.create_optimization_profile()
        for name, (smallest, usual, largest) in profile(self.config).items():
            shapes.set_shape(name, smallest, usual, largest)
        settings.add_optimization_profile(shapes)
        plan = builder.build_serialized_network(network, settings)
        if plan is None:
            raise ExportError(f"TensorRT could not build a plan of {self.config.name}; see its messages above")
        (version / PLAN).write_bytes(plan)
