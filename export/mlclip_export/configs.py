"""Triton model configs as protobuf messages: one function a kind of model.

`model_repository/README.md` is the contract. A message is made for one variant: `cpu`, `cuda` and `tensorrt` run
the same ONNX files with onnxruntime, `plan` runs TensorRT plans; only encoders and heads differ between them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from google.protobuf import text_format
from mlclip_client.pixels import PixelSpec
from tritonclient.grpc import model_config_pb2 as pb

from mlclip.checkpoint import labels_file
from mlclip.features import TEXT_KINDS
from mlclip_export.accelerators import Stamp, Variant, accelerate
from mlclip_export.facts import EncoderFacts, HeadFacts
from mlclip_export.graphs import EXPORTER, TOP, encoder_outputs, threshold_input

LABELS = "labels.txt"
REFERENCE_OUTPUTS = ("reference_index", "reference_weight")
Via = Literal["pixels", "bytes"]
Dims = Sequence[int]


@dataclass(frozen=True)
class ConfigOptions:
    """What may be chosen about configs.

    Attributes:
        max_batch: largest batch that Triton builds.
        fp16: let TensorRT compute in half precision.
        engine_cache: folder on the server where onnxruntime's TensorRT accelerator keeps engines; it must exist.
        encoder_threads: CPU threads of the encoder; 0 means all cores.
        head_threads: CPU threads of a head.
        preprocess_instances: processes that decode images.
    """

    max_batch: int = 64
    fp16: bool = False
    engine_cache: str = "/engines"
    encoder_threads: int = 0
    head_threads: int = 1
    preprocess_instances: int = 2


@dataclass(frozen=True)
class FirstSteps:
    """Names of the models that an encoder's ensembles begin with; `tokenize` is empty where nothing reads texts."""

    preprocess: str
    tokenize: str = ""


def preprocess_config(name: str, spec: PixelSpec, max_batch: int, options: ConfigOptions) -> Any:
    """Describe the Python model that turns image files into pixels."""
    config = _model(name, "python", max_batch)
    _add(config.input, "image", pb.TYPE_STRING, [1])
    _add(config.output, "pixels", pb.TYPE_UINT8, [spec.size, spec.size, 3])
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=options.preprocess_instances)
    return _with(config, "preprocess", _spec(spec))


def encoder_config(encoder: EncoderFacts, options: ConfigOptions, variant: Variant, stamp: Stamp) -> Any:
    """Describe an encoder."""
    config = _model(f"encoder_{encoder.tag}", "onnxruntime", encoder.max_batch)
    size = encoder.spec.size
    _add(config.input, "pixels", pb.TYPE_UINT8, [size, size, 3])
    for output in encoder_outputs(encoder.token_count > 0):
        _add(config.output, output, pb.TYPE_FP32, feature_dims(encoder, output))
    parameters = {"encoder": encoder.tag, "fingerprint": encoder.fingerprint, "exporter": EXPORTER}
    _with(config, "encoder", {**parameters, **_spec(encoder.spec)})
    return accelerate(
        _with_threads(config, options.encoder_threads), variant, stamp, options.engine_cache, options.fp16
    )


def tokenize_config(name: str, length: int, max_batch: int) -> Any:
    """Describe the Python model that turns a text, if there is one, into token ids; of `pixels` it reads the batch."""
    config = _model(name, "python", max_batch)
    _add(config.input, "pixels", pb.TYPE_UINT8, [-1, -1, 3])
    _add_text_input(config)
    _add(config.output, "token_ids", pb.TYPE_INT64, [length])
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    return _with(config, "tokenize", {})


def text_encoder_config(encoder: EncoderFacts, options: ConfigOptions, variant: Variant, stamp: Stamp) -> Any:
    """Describe the text tower of an encoder that has one."""
    assert encoder.text is not None
    config = _model(f"text_encoder_{encoder.tag}", "onnxruntime", encoder.max_batch)
    _add(config.input, "token_ids", pb.TYPE_INT64, [encoder.text.token_count])
    for output in TEXT_KINDS:
        _add(config.output, output, pb.TYPE_FP32, feature_dims(encoder, output))
    parameters = {"encoder": encoder.tag, "fingerprint": encoder.text.fingerprint, "exporter": EXPORTER}
    _with(config, "text_encoder", parameters)
    return accelerate(
        _with_threads(config, options.encoder_threads), variant, stamp, options.engine_cache, options.fp16
    )


def head_config(head: HeadFacts, encoder: EncoderFacts, options: ConfigOptions, variant: Variant, stamp: Stamp) -> Any:
    """Describe a head."""
    config = _model(f"head_{head.name}", "onnxruntime", head.max_batch)
    _add_head_tensors(config, head, encoder)
    _with(config, "head", {"head": head.name, "encoder": head.encoder})
    return accelerate(_with_threads(config, options.head_threads), variant, stamp, options.engine_cache, options.fp16)


def python_head_config(head: HeadFacts, encoder: EncoderFacts, parameters: Mapping[str, str]) -> Any:
    """Describe a head that a Python model serves; it runs on the CPU."""
    config = _model(f"head_{head.name}", "python", head.max_batch)
    _add_head_tensors(config, head, encoder)
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    return _with(config, "head", {"head": head.name, "encoder": head.encoder, **parameters})


def threshold_config(head: HeadFacts) -> Any:
    """Describe a threshold model; it is so small that it always runs on the CPU."""
    config = _model(f"threshold_{head.name}", "onnxruntime", head.max_batch)
    _add(config.input, threshold_input(head.output), pb.TYPE_FP32, [len(head.labels)])
    _add_label_outputs(config, head)
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    return _with(_with_threads(config, 1), "threshold", {"head": head.name})


def references_config(head: HeadFacts) -> Any:
    """Describe the Python model that names the references behind an answer."""
    config = _model(f"references_{head.name}", "python", head.max_batch)
    _add(config.input, "reference_index", pb.TYPE_INT32, [head.references])
    _add(config.input, "reference_weight", pb.TYPE_FP32, [head.references])
    _add(config.output, "references", pb.TYPE_STRING, [1])
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    return _with(config, "references", {"head": head.name})


def ensemble_config(head: HeadFacts, encoder: EncoderFacts, first: FirstSteps, via: Via) -> Any:
    """Describe the ensemble of one head: image or pixels, and perhaps a text, to labels."""
    name = head.name if via == "pixels" else f"{head.name}_bytes"
    config = _ensemble(name, encoder, [head], first, via)
    _add_label_outputs(config, head, label_file=LABELS)
    _add_references_output(config, head)
    _add(config.output, "embedding_out", pb.TYPE_FP32, [encoder.embedding_width])
    _add_head_steps(config, head)
    parameters = {
        "head": head.name,
        "labels": json.dumps(head.labels, ensure_ascii=False),
        "labels_sha256": hashlib.sha256(labels_file(head.labels)).hexdigest(),
        "thresholds": json.dumps(head.thresholds),
        "encoder": encoder.tag,
        **_spec(encoder.spec),
    }
    return _with(config, "ensemble", parameters)


def combined_config(heads: Sequence[HeadFacts], encoder: EncoderFacts, first: FirstSteps, via: Via) -> Any:
    """Describe the ensemble of all heads on one encoder; Triton leaves out the heads nobody asks for."""
    name = f"heads_{encoder.tag}" if via == "pixels" else f"heads_{encoder.tag}_bytes"
    config = _ensemble(name, encoder, heads, first, via)
    for head in heads:
        _add_label_outputs(config, head, prefix=f"{head.name}_")
        _add_references_output(config, head, prefix=f"{head.name}_")
    _add(config.output, "embedding_out", pb.TYPE_FP32, [encoder.embedding_width])
    for head in heads:
        _add_head_steps(config, head, prefix=f"{head.name}_")
    parameters = {
        "heads": json.dumps([head.name for head in heads]),
        "encoder": encoder.tag,
        **_spec(encoder.spec),
    }
    return _with(config, "combined", parameters)


def feature_dims(encoder: EncoderFacts, feature: str) -> Dims:
    """Give the shape of an encoder's output, image's or text's, without the batch."""
    if feature == "text_tokens" and encoder.text is not None:
        return [encoder.text.token_count, encoder.text.token_width]
    if feature == "tokens":
        return [encoder.token_count, encoder.token_width]
    return [encoder.embedding_width]


def to_text(config: Any) -> str:
    """Write a message as the text of a config.pbtxt; parameters are sorted, so equal configs give equal text."""
    return str(text_format.MessageToString(config, as_utf8=True))


def _model(name: str, backend: str, max_batch: int) -> Any:
    config = pb.ModelConfig(name=name, backend=backend, max_batch_size=max_batch)
    config.dynamic_batching.SetInParent()
    return config


def _ensemble(name: str, encoder: EncoderFacts, heads: Sequence[HeadFacts], first: FirstSteps, via: Via) -> Any:
    """Start an ensemble: its inputs, and the steps up to the encoders.

    `tokenize` is the first step although it waits for pixels: where no head that reads texts is asked, Triton leaves
    out what comes before the unused input `text`, and counts that as step 0 (see the traps in the contract).
    """
    size = encoder.spec.size
    max_batch = min([encoder.max_batch, *(head.max_batch for head in heads)])
    config = pb.ModelConfig(name=name, platform="ensemble", max_batch_size=max_batch)
    features = sorted({feature for head in heads for feature in head.inputs})
    of_text = [f for f in features if f in TEXT_KINDS]
    of_image = [*(f for f in features if f not in TEXT_KINDS), "embedding_out"]
    picture = ("pixels", pb.TYPE_UINT8, [size, size, 3]) if via == "pixels" else ("image", pb.TYPE_STRING, [1])
    _add(config.input, *picture)
    if of_text:
        _add_text_input(config)
        _add_step(config, first.tokenize, {"pixels": "pixels", "text": "text"}, {"token_ids": "token_ids"})
        _add_step(config, f"text_encoder_{encoder.tag}", {"token_ids": "token_ids"}, {f: f for f in of_text})
    if via == "bytes":
        _add_step(config, first.preprocess, {"image": "image"}, {"pixels": "pixels"})
    _add_step(config, f"encoder_{encoder.tag}", {"pixels": "pixels"}, {f: f for f in of_image})
    return config


def _add_text_input(config: Any) -> None:
    _add(config.input, "text", pb.TYPE_STRING, [1]).optional = True


def _add_head_tensors(config: Any, head: HeadFacts, encoder: EncoderFacts) -> None:
    for feature in head.inputs:
        _add(config.input, feature, pb.TYPE_FP32, feature_dims(encoder, feature))
    _add(config.output, head.output, pb.TYPE_FP32, [len(head.labels)])
    if head.references:
        _add(config.output, "reference_index", pb.TYPE_INT32, [head.references])
        _add(config.output, "reference_weight", pb.TYPE_FP32, [head.references])


def _add_head_steps(config: Any, head: HeadFacts, prefix: str = "") -> None:
    given = threshold_input(head.output)
    named = REFERENCE_OUTPUTS if head.references else ()
    made = {head.output: f"{prefix}{given}", **{output: f"{prefix}{output}" for output in named}}
    _add_step(config, f"head_{head.name}", {feature: feature for feature in head.inputs}, made)
    outputs = {output: f"{prefix}{output}" for output in ("scores", "selected", "top_index", "top_score")}
    _add_step(config, f"threshold_{head.name}", {given: f"{prefix}{given}"}, outputs)
    if named:
        inputs = {output: f"{prefix}{output}" for output in named}
        _add_step(config, f"references_{head.name}", inputs, {"references": f"{prefix}references"})


def _add_label_outputs(config: Any, head: HeadFacts, prefix: str = "", label_file: str = "") -> None:
    classes = len(head.labels)
    top = min(classes, TOP)
    _add(config.output, f"{prefix}scores", pb.TYPE_FP32, [classes]).label_filename = label_file
    _add(config.output, f"{prefix}selected", pb.TYPE_BOOL, [classes])
    _add(config.output, f"{prefix}top_index", pb.TYPE_INT32, [top])
    _add(config.output, f"{prefix}top_score", pb.TYPE_FP32, [top])


def _add_references_output(config: Any, head: HeadFacts, prefix: str = "") -> None:
    if head.references:
        _add(config.output, f"{prefix}references", pb.TYPE_STRING, [1])


def _add_step(config: Any, model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    step = config.ensemble_scheduling.step.add(model_name=model, model_version=-1)
    step.input_map.update(inputs)
    step.output_map.update(outputs)


def _add(tensors: Any, name: str, kind: int, dims: Iterable[int]) -> Any:
    return tensors.add(name=name, data_type=kind, dims=list(dims))


def _with_threads(config: Any, threads: int) -> Any:
    config.parameters["intra_op_thread_count"].string_value = str(threads)
    config.parameters["inter_op_thread_count"].string_value = "1"
    return config


def _spec(spec: PixelSpec) -> dict[str, str]:
    return {
        "image_size": str(spec.size),
        "interpolation": spec.interpolation,
        "resize_mode": spec.resize_mode,
        "fill": str(spec.fill),
    }


def _with(config: Any, kind: str, parameters: Mapping[str, str]) -> Any:
    named = {"mlclip_kind": kind, "mlclip_version": version("mlclip"), **parameters}
    for key, value in named.items():
        config.parameters[key].string_value = value
    return config
