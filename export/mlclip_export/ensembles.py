"""The ensembles of a repository: the steps from an image and an optional text to labels."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tritonclient.grpc import model_config_pb2 as pb

from mlclip.checkpoint import labels_file
from mlclip.encoders.features import TEXT_KINDS
from mlclip_export.configs import add_label_outputs, add_tensor, add_text_input, spec_parameters, with_parameters
from mlclip_export.facts import EncoderFacts, HeadFacts
from mlclip_export.graphs import threshold_input

LABELS = "labels.txt"
REFERENCE_OUTPUTS = ("reference_index", "reference_weight")
Via = Literal["pixels", "bytes"]
VIAS: tuple[Via, ...] = ("pixels", "bytes")


@dataclass(frozen=True)
class FirstSteps:
    """Names of the models that an encoder's ensembles begin with; `tokenize` is empty if no head reads texts."""

    preprocess: str
    tokenize: str = ""


def ensemble_config(head: HeadFacts, encoder: EncoderFacts, first: FirstSteps, via: Via) -> pb.ModelConfig:
    """Describe the ensemble of one head: image or pixels, and an optional text, to labels."""
    name = head.name if via == "pixels" else f"{head.name}_bytes"
    config = _ensemble(name, encoder, [head], first, via)
    add_label_outputs(config, head, label_file=LABELS)
    _add_references_output(config, head)
    add_tensor(config.output, "embedding_out", pb.TYPE_FP32, [encoder.embedding_width])
    _add_head_steps(config, head)
    parameters = {
        "head": head.name,
        "labels": json.dumps(head.labels, ensure_ascii=False),
        "labels_sha256": hashlib.sha256(labels_file(head.labels)).hexdigest(),
        "thresholds": json.dumps(head.thresholds),
        "encoder": encoder.tag,
        **spec_parameters(encoder.spec),
    }
    if head.calibrated:
        parameters["calibrated"] = "true"
    for name in ("promise", "validation"):
        if value := getattr(head, name):
            parameters[name] = value
    return with_parameters(config, "ensemble", parameters)


def combined_config(heads: Sequence[HeadFacts], encoder: EncoderFacts, first: FirstSteps, via: Via) -> pb.ModelConfig:
    """Describe the ensemble of all heads on one encoder; Triton runs only the heads whose outputs are requested."""
    name = f"heads_{encoder.tag}" if via == "pixels" else f"heads_{encoder.tag}_bytes"
    config = _ensemble(name, encoder, heads, first, via)
    for head in heads:
        add_label_outputs(config, head, prefix=f"{head.name}_")
        _add_references_output(config, head, prefix=f"{head.name}_")
    add_tensor(config.output, "embedding_out", pb.TYPE_FP32, [encoder.embedding_width])
    for head in heads:
        _add_head_steps(config, head, prefix=f"{head.name}_")
    parameters = {
        "heads": json.dumps([head.name for head in heads]),
        "encoder": encoder.tag,
        **spec_parameters(encoder.spec),
    }
    return with_parameters(config, "combined", parameters)


def _ensemble(
    name: str, encoder: EncoderFacts, heads: Sequence[HeadFacts], first: FirstSteps, via: Via
) -> pb.ModelConfig:
    """Start an ensemble: its inputs, and the steps up to the encoders.

    `tokenize` is step 0 although it waits for pixels: when a request asks no head that reads texts, Triton takes
    the unused input `text` for an output of step 0 (see the traps in the contract).
    """
    size = encoder.spec.size
    max_batch = min([encoder.max_batch, *(head.max_batch for head in heads)])
    config = pb.ModelConfig(name=name, platform="ensemble", max_batch_size=max_batch)
    features = sorted({feature for head in heads for feature in (*head.inputs, *_embedding(head))})
    of_text = [f for f in features if f in TEXT_KINDS]
    of_image = [*(f for f in features if f not in TEXT_KINDS), "embedding_out"]
    picture = ("pixels", pb.TYPE_UINT8, [size, size, 3]) if via == "pixels" else ("image", pb.TYPE_STRING, [1])
    add_tensor(config.input, *picture)
    if of_text:
        add_text_input(config)
        _add_step(config, first.tokenize, {"pixels": "pixels", "text": "text"}, {"token_ids": "token_ids"})
        _add_step(config, f"text_encoder_{encoder.tag}", {"token_ids": "token_ids"}, {f: f for f in of_text})
    if via == "bytes":
        _add_step(config, first.preprocess, {"image": "image"}, {"pixels": "pixels"})
    _add_step(config, f"encoder_{encoder.tag}", {"pixels": "pixels"}, {f: f for f in of_image})
    return config


def _add_head_steps(config: pb.ModelConfig, head: HeadFacts, prefix: str = "") -> None:
    def named(*tensors: str) -> dict[str, str]:
        return {tensor: f"{prefix}{tensor}" for tensor in tensors}

    given, references = threshold_input(head.output), named(*(REFERENCE_OUTPUTS if head.references else ()))
    outputs = {head.output: f"{prefix}{given}", **references}
    _add_step(config, f"head_{head.name}", {feature: feature for feature in head.inputs}, outputs)
    outputs = named("scores", "selected", "top_index", "top_score", *(("novelty",) if head.novelty else ()))
    _add_step(config, f"threshold_{head.name}", named(given) | _embedding(head), outputs)
    if references:
        _add_step(config, f"references_{head.name}", references, named("references"))


def _embedding(head: HeadFacts) -> dict[str, str]:
    return {"embedding": "embedding"} if head.novelty else {}


def _add_references_output(config: pb.ModelConfig, head: HeadFacts, prefix: str = "") -> None:
    if head.references:
        add_tensor(config.output, f"{prefix}references", pb.TYPE_STRING, [1])


def _add_step(config: pb.ModelConfig, model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    step = config.ensemble_scheduling.step.add(model_name=model, model_version=-1)
    step.input_map.update(inputs)
    step.output_map.update(outputs)
