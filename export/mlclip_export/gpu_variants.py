"""Configs for a GPU: onnxruntime's CUDA and TensorRT accelerators, or a TensorRT plan.

Instance groups are KIND_AUTO: Triton uses a GPU if there is one and otherwise the CPU, so these variants load on any
machine. The keys are those of Triton's onnxruntime backend
(https://github.com/triton-inference-server/onnxruntime_backend), which refuses unknown keys.
"""

from dataclasses import dataclass
from typing import Literal

from tritonclient.grpc import model_config_pb2 as pb

from mlclip_export.facts import parameter

Variant = Literal["cpu", "cuda", "tensorrt", "plan"]
ONNX_VARIANTS: tuple[Variant, ...] = ("cpu", "cuda", "tensorrt")
VARIANTS: tuple[Variant, ...] = (*ONNX_VARIANTS, "plan")
PLAN = "model.plan"
_ENGINES = "trt_engine_cache_path"
_WORKSPACE_BYTES = 4 << 30


@dataclass(frozen=True)
class Stamp:
    """The content that a config belongs to: the model's version and the first digits of the content's digest."""

    version: int
    digest: str


def accelerate(config: pb.ModelConfig, variant: Variant, engine_cache: str, fp16: bool) -> pb.ModelConfig:
    """Complete the config of an encoder or a head, with its inputs and outputs, for a variant, in place; returns it.

    The engine cache is an existing folder on the server; `fp16` lets TensorRT compute in half precision.
    """
    if variant == "cpu":
        config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
        return config
    if variant == "plan":
        config.backend, config.default_model_filename = "tensorrt", PLAN
        config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_GPU, count=1)
        return config
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_AUTO, count=1)
    # otherwise a config with parameters makes the backend search cuDNN kernels again for each batch size
    config.parameters["cudnn_conv_algo_search"].string_value = "1"
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name=variant)
    if variant == "cuda":
        accelerator.parameters["use_tf32"] = "0"
    else:
        accelerator.parameters.update(_tensorrt(config, engine_cache, fp16))
    return config


def stamped(config: pb.ModelConfig, stamp: Stamp) -> pb.ModelConfig:
    """Copy a config for one version of its model: the engine cache's path must never lead to engines of other weights.

    The stamp is part of the last folder's name, since the backend creates no parent folders.
    """
    copy = pb.ModelConfig()
    copy.CopyFrom(config)
    for accelerator in copy.optimization.execution_accelerators.gpu_execution_accelerator:
        if _ENGINES in accelerator.parameters:
            accelerator.parameters[_ENGINES] += f"-{stamp.version}-{stamp.digest}"
    return copy


def profile(config: pb.ModelConfig) -> dict[str, tuple[list[int], list[int], list[int]]]:
    """Give the smallest, usual and largest shape of each input, batch included: TensorRT builds engines for them."""
    largest = config.max_batch_size
    usual = max(1, largest // 2)
    return {tensor.name: ([1, *tensor.dims], [usual, *tensor.dims], [largest, *tensor.dims]) for tensor in config.input}


def _tensorrt(config: pb.ModelConfig, engine_cache: str, fp16: bool) -> dict[str, str]:
    shapes, quantized = profile(config), parameter(config, "precision") == "int8"
    bounds = {
        f"trt_profile_{bound}_shapes": _shapes({name: shape[at] for name, shape in shapes.items()})
        for at, bound in enumerate(("min", "opt", "max"))
    }
    return {
        "precision_mode": "FP16" if fp16 else "INT8" if quantized else "FP32",
        "max_workspace_size_bytes": str(_WORKSPACE_BYTES),
        "trt_engine_cache_enable": "1",
        _ENGINES: f"{engine_cache}/{config.name}",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": engine_cache,
        **bounds,
        **({"trt_layer_norm_fp32_fallback": "1"} if fp16 else {}),
    }


def _shapes(shapes: dict[str, list[int]]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
