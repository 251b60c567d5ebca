"""What an export can be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Format = Literal["onnx", "tensorrt"]
Accelerator = Literal["none", "cuda", "tensorrt"]
Form = Literal["repository", "tagger"]
Precision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class ConfigOptions:
    """Settings of the configs.

    Attributes:
        max_batch: largest batch that Triton builds.
        fp16: let TensorRT compute in half precision.
        engine_cache: existing folder on the server where onnxruntime's TensorRT accelerator keeps engines.
        encoder_threads: CPU threads per encoder; 0 means all cores.
        head_threads: CPU threads per head.
        preprocess_instances: processes that decode images; 0: `mlclip-serve` starts one per core, others start two.
        max_bytes: size of the largest image file that the server decodes.
        max_pixels: width times height of the largest image that the server decodes.
        queue_seconds: time after which an image that still waits for its decoding is given up.
    """

    max_batch: int = 64
    fp16: bool = False
    engine_cache: str = "/engines"
    encoder_threads: int = 0
    head_threads: int = 1
    preprocess_instances: int = 0
    max_bytes: int = 64 << 20
    max_pixels: int = 40_000_000
    queue_seconds: int = 30


@dataclass(frozen=True)
class ReduceOptions:
    """Precision of encoders on the CPU, and what it may cost.

    Attributes:
        precision: `int8` and `bf16` ask for OpenVINO in the config.
        calibration: training images from which the ranges of int8 are measured.
        max_map_loss: points of validation mAP that a head may lose.
        min_agreement: labels that a head selects with float32 and with the reduced encoder, as a share of those that
            it selects with either.
        refit: train heads again on the reduced encoder's features, where that helps.
    """

    precision: Precision = "fp32"
    calibration: int = 300
    max_map_loss: float = 0.5
    min_agreement: float = 0.9
    refit: bool = False


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        format: `onnx`, or `tensorrt` to build plans beside the ONNX files, which needs TensorRT and a GPU.
        accelerator: which variant becomes the default config; all are written.
        tolerance: largest accepted absolute difference from torch, over all outputs.
        configs: settings of the configs.
    """

    format: Format = "onnx"
    accelerator: Accelerator = "none"
    tolerance: float = 1e-4
    configs: ConfigOptions = field(default_factory=ConfigOptions)
