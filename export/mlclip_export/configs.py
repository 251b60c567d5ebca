"""Triton model configs as protobuf messages: one function per kind of model.

`model_repository/README.md` is the contract. A message describes one variant: `cpu`, `cuda` and `tensorrt` run the
same ONNX files with onnxruntime, `plan` runs TensorRT plans. Only encoders and heads differ between variants.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from google.protobuf import text_format
from mlclip_client.pixels import PixelSpec
from tritonclient.grpc import model_config_pb2 as pb

from mlclip.encoders.features import TEXT_KINDS
from mlclip_export.facts import EncoderFacts, HeadFacts
from mlclip_export.gpu_variants import Variant, accelerate
from mlclip_export.graphs import ENCODER_OUTPUTS, EXPORTER, TOP, threshold_input
from mlclip_export.options import ConfigOptions

Dims = Sequence[int]


def preprocess_config(name: str, spec: PixelSpec, max_batch: int, options: ConfigOptions) -> pb.ModelConfig:
    """Describe the Python model that turns image files into pixels."""
    config = _model(name, "python", max_batch)
    add_tensor(config.input, "image", pb.TYPE_STRING, [1])
    add_tensor(config.output, "pixels", pb.TYPE_UINT8, [spec.size, spec.size, 3])
    # Triton tells no step of an ensemble that its client has gone: such requests must not fill the queue for ever.
    config.dynamic_batching.default_queue_policy.default_timeout_microseconds = options.queue_seconds * 1_000_000
    instances = options.preprocess_instances
    own = {"max_bytes": str(options.max_bytes), "max_pixels": str(options.max_pixels)}
    if instances == 0:
        own["instances"] = "cores"
    return with_parameters(_on_cpu(config, instances or 2), "preprocess", {**spec_parameters(spec), **own})


def encoder_config(encoder: EncoderFacts, options: ConfigOptions, variant: Variant) -> pb.ModelConfig:
    """Describe an encoder."""
    config = _model(f"encoder_{encoder.tag}", "onnxruntime", encoder.max_batch)
    size = encoder.spec.size
    add_tensor(config.input, "pixels", pb.TYPE_UINT8, [size, size, 3])
    for output in ENCODER_OUTPUTS:
        add_tensor(config.output, output, pb.TYPE_FP32, feature_dims(encoder, output))
    parameters = {"encoder": encoder.tag, "fingerprint": encoder.fingerprint, "exporter": EXPORTER}
    if encoder.precision != "fp32":
        parameters["precision"] = encoder.precision
        if variant == "cpu":
            config.optimization.execution_accelerators.cpu_execution_accelerator.add(name="openvino")
    with_parameters(config, "encoder", {**parameters, **spec_parameters(encoder.spec)})
    return accelerate(_with_threads(config, options.encoder_threads), variant, options.engine_cache, options.fp16)


def tokenize_config(name: str, length: int, max_batch: int) -> pb.ModelConfig:
    """Describe the Python model that turns an optional text into token ids; `pixels` only tell the batch size."""
    config = _model(name, "python", max_batch)
    add_tensor(config.input, "pixels", pb.TYPE_UINT8, [-1, -1, 3])
    add_text_input(config)
    add_tensor(config.output, "token_ids", pb.TYPE_INT64, [length])
    return with_parameters(_on_cpu(config), "tokenize", {})


def text_encoder_config(encoder: EncoderFacts, options: ConfigOptions, variant: Variant) -> pb.ModelConfig:
    """Describe the text tower of an encoder that has one."""
    assert encoder.text is not None
    config = _model(f"text_encoder_{encoder.tag}", "onnxruntime", encoder.max_batch)
    add_tensor(config.input, "token_ids", pb.TYPE_INT64, [encoder.text.token_count])
    for output in TEXT_KINDS:
        add_tensor(config.output, output, pb.TYPE_FP32, feature_dims(encoder, output))
    parameters = {"encoder": encoder.tag, "fingerprint": encoder.text.fingerprint, "exporter": EXPORTER}
    with_parameters(config, "text_encoder", parameters)
    return accelerate(_with_threads(config, options.encoder_threads), variant, options.engine_cache, options.fp16)


def head_config(head: HeadFacts, encoder: EncoderFacts, options: ConfigOptions, variant: Variant) -> pb.ModelConfig:
    """Describe a head."""
    config = _model(f"head_{head.name}", "onnxruntime", head.max_batch)
    _add_head_tensors(config, head, encoder)
    with_parameters(config, "head", {"head": head.name, "encoder": head.encoder})
    return accelerate(_with_threads(config, options.head_threads), variant, options.engine_cache, options.fp16)


def python_head_config(head: HeadFacts, encoder: EncoderFacts, parameters: Mapping[str, str]) -> pb.ModelConfig:
    """Describe a head that a Python model serves; it runs on the CPU."""
    config = _model(f"head_{head.name}", "python", head.max_batch)
    _add_head_tensors(config, head, encoder)
    return with_parameters(_on_cpu(config), "head", {"head": head.name, "encoder": head.encoder, **parameters})


def threshold_config(head: HeadFacts, encoder: EncoderFacts) -> pb.ModelConfig:
    """Describe a threshold model; it is small and always runs on the CPU."""
    config = _model(f"threshold_{head.name}", "onnxruntime", head.max_batch)
    add_tensor(config.input, threshold_input(head.output), pb.TYPE_FP32, [len(head.labels)])
    if head.novelty:
        add_tensor(config.input, "embedding", pb.TYPE_FP32, [encoder.embedding_width])
    add_label_outputs(config, head)
    return with_parameters(_with_threads(_on_cpu(config), 1), "threshold", {"head": head.name})


def references_config(head: HeadFacts) -> pb.ModelConfig:
    """Describe the Python model that names the references of an answer."""
    config = _model(f"references_{head.name}", "python", head.max_batch)
    add_tensor(config.input, "reference_index", pb.TYPE_INT32, [head.references])
    add_tensor(config.input, "reference_weight", pb.TYPE_FP32, [head.references])
    add_tensor(config.output, "references", pb.TYPE_STRING, [1])
    return with_parameters(_on_cpu(config), "references", {"head": head.name})


def feature_dims(encoder: EncoderFacts, feature: str) -> Dims:
    """Give the shape of an output of an encoder or its text tower, without the batch."""
    if feature == "text_tokens" and encoder.text is not None:
        return [encoder.text.token_count, encoder.text.token_width]
    if feature == "tokens":
        return [encoder.token_count, encoder.token_width]
    return [encoder.embedding_width]


def to_text(config: pb.ModelConfig) -> str:
    """Give the text of a config.pbtxt; parameters are sorted, so equal configs give equal text."""
    return str(text_format.MessageToString(config, as_utf8=True))


def _model(name: str, backend: str, max_batch: int) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name, backend=backend, max_batch_size=max_batch)
    config.dynamic_batching.SetInParent()
    return config


def add_text_input(config: pb.ModelConfig) -> None:
    """Add the optional input `text`."""
    add_tensor(config.input, "text", pb.TYPE_STRING, [1]).optional = True


def _add_head_tensors(config: pb.ModelConfig, head: HeadFacts, encoder: EncoderFacts) -> None:
    for feature in head.inputs:
        add_tensor(config.input, feature, pb.TYPE_FP32, feature_dims(encoder, feature))
    add_tensor(config.output, head.output, pb.TYPE_FP32, [len(head.labels)])
    if head.references:
        add_tensor(config.output, "reference_index", pb.TYPE_INT32, [head.references])
        add_tensor(config.output, "reference_weight", pb.TYPE_FP32, [head.references])


def add_label_outputs(config: pb.ModelConfig, head: HeadFacts, prefix: str = "", label_file: str = "") -> None:
    """Add the outputs of a threshold model; `label_file` names the classes of `scores`."""
    classes = len(head.labels)
    top = min(classes, TOP)
    add_tensor(config.output, f"{prefix}scores", pb.TYPE_FP32, [classes]).label_filename = label_file
    add_tensor(config.output, f"{prefix}selected", pb.TYPE_BOOL, [classes])
    add_tensor(config.output, f"{prefix}top_index", pb.TYPE_INT32, [top])
    add_tensor(config.output, f"{prefix}top_score", pb.TYPE_FP32, [top])
    if head.novelty:
        add_tensor(config.output, f"{prefix}novelty", pb.TYPE_FP32, [1])


def add_tensor(tensors: Any, name: str, kind: int, dims: Iterable[int]) -> Any:
    """Add a tensor to the inputs or outputs of a config, and return it."""
    return tensors.add(name=name, data_type=kind, dims=list(dims))


def _on_cpu(config: pb.ModelConfig, instances: int = 1) -> pb.ModelConfig:
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=instances)
    return config


def _with_threads(config: pb.ModelConfig, threads: int) -> pb.ModelConfig:
    config.parameters["intra_op_thread_count"].string_value = str(threads)
    config.parameters["inter_op_thread_count"].string_value = "1"
    return config


def spec_parameters(spec: PixelSpec) -> dict[str, str]:
    """Give the parameters that describe an encoder's pixels."""
    return {
        "image_size": str(spec.size),
        "interpolation": spec.interpolation,
        "resize_mode": spec.resize_mode,
        "fill": str(spec.fill),
        "decode": spec.decode,
    }


def with_parameters(config: pb.ModelConfig, kind: str, parameters: Mapping[str, str]) -> pb.ModelConfig:
    """Set a config's parameters, its kind and mlclip's version included, and return the config."""
    named = {"mlclip_kind": kind, "mlclip_version": version("mlclip"), **parameters}
    for key, value in named.items():
        config.parameters[key].string_value = value
    return config
