"""How a config is made for a GPU: onnxruntime's CUDA and TensorRT accelerators, or a TensorRT plan.

Instance groups say KIND_AUTO: Triton takes a GPU where it finds one and the CPU elsewhere, so each variant loads
on any machine. The keys are those of Triton's onnxruntime backend
(https://github.com/triton-inference-server/onnxruntime_backend), which refuses keys it does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from tritonclient.grpc import model_config_pb2 as pb

Variant = Literal["cpu", "cuda", "tensorrt", "plan"]
ONNX_VARIANTS: tuple[Variant, ...] = ("cpu", "cuda", "tensorrt")
VARIANTS: tuple[Variant, ...] = get_args(Variant)
PLAN = "model.plan"
_WORKSPACE_BYTES = 4 << 30


@dataclass(frozen=True)
class Stamp:
    """Which content a config goes with: the model's version and the first digits of its content's digest."""

    version: int
    digest: str


def accelerate(config: Any, variant: Variant, stamp: Stamp, engine_cache: str, fp16: bool) -> Any:
    """Finish the config of an encoder or a head for a variant.

    Args:
        config: the message, with inputs and outputs; it is changed.
        variant: where it shall run.
        stamp: goes into the engine cache's path: engines of other weights must never be found there.
        engine_cache: an existing folder on the server.
        fp16: let TensorRT compute in half precision.

    Returns:
        `config`.
    """
    if variant == "cpu":
        config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
        return config
    if variant == "plan":
        config.backend, config.default_model_filename = "tensorrt", PLAN
        config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_GPU, count=1)
        return config
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_AUTO, count=1)
    # a config with parameters makes the backend search cuDNN kernels anew for each batch size unless told so here
    config.parameters["cudnn_conv_algo_search"].string_value = "1"
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name=variant)
    if variant == "cuda":
        accelerator.parameters["use_tf32"] = "0"
    else:
        accelerator.parameters.update(_tensorrt(config, stamp, engine_cache, fp16))
    return config


def profile(config: Any) -> dict[str, tuple[list[int], list[int], list[int]]]:
    """Give smallest, usual and largest shape of each input, batch included: what TensorRT builds engines for."""
    largest = config.max_batch_size
    usual = max(1, largest // 2)
    return {
        tensor.name: tuple([batch, *tensor.dims] for batch in (1, usual, largest))  # type: ignore[misc]
        for tensor in config.input
    }


def _tensorrt(config: Any, stamp: Stamp, engine_cache: str, fp16: bool) -> dict[str, str]:
    # the backend makes the last folder of the path only, hence no folders in folders
    folder = f"{engine_cache}/{config.name}-{stamp.version}-{stamp.digest}"
    shapes = profile(config)
    parameters = {
        "precision_mode": "FP16" if fp16 else "FP32",
        "max_workspace_size_bytes": str(_WORKSPACE_BYTES),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": engine_cache,
        "trt_profile_min_shapes": _shapes({name: shape[0] for name, shape in shapes.items()}),
        "trt_profile_opt_shapes": _shapes({name: shape[1] for name, shape in shapes.items()}),
        "trt_profile_max_shapes": _shapes({name: shape[2] for name, shape in shapes.items()}),
    }
    if fp16:
        parameters["trt_layer_norm_fp32_fallback"] = "1"
    return parameters


def _shapes(shapes: dict[str, list[int]]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
