"""Encoders and heads as a model repository describes them; configs are written from these values.

The repository is the only record: a later export reads the values back from its configs.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf import text_format
from mlclip_client.pixels import PixelSpec
from tritonclient.grpc import model_config_pb2 as pb

from mlclip.encoders.features import TEXT_KINDS

CONFIG = "config.pbtxt"


@dataclass(frozen=True)
class TextFacts:
    """The text tower of an encoder; its model is `text_encoder_<tag>`."""

    fingerprint: str  # digest of its weights
    token_count: int  # L, the context length
    token_width: int  # V
    exporter: str = ""  # what wrote its graph; empty before there is one


@dataclass(frozen=True)
class EncoderFacts:
    """An encoder; its model is `encoder_<tag>`."""

    tag: str
    fingerprint: str  # digest of its weights and preprocessing
    spec: PixelSpec  # the pixels that it reads
    embedding_width: int  # D
    token_count: int  # T, and W for `token_width`; 0 without tokens
    token_width: int
    max_batch: int  # largest batch of its model
    exporter: str = ""  # what wrote its graph; empty before there is one
    text: TextFacts | None = None  # its text tower, if a head reads texts
    precision: str = "fp32"  # `fp32`, `bf16` or `int8`


@dataclass(frozen=True)
class HeadFacts:
    """A head; its models are `head_<name>`, `threshold_<name>`, `<name>` and `<name>_bytes`."""

    name: str
    encoder: str  # the tag of its encoder
    inputs: tuple[str, ...]  # the encoder's outputs that it takes, in order
    labels: tuple[str, ...]  # N class names
    thresholds: tuple[float, ...]  # N float32 values
    max_batch: int  # largest batch of its models
    output: str = "logits"  # `logits` or `scores`: what its model gives to the threshold model
    references: int = 0  # R', how many references its model names per image; 0 if it names none
    calibrated: bool = False  # this, `promise` and `validation` are as in the model repository's README
    promise: str = ""
    novelty: bool = False  # its threshold model says how novel an image is
    validation: str = ""


@dataclass(frozen=True)
class Facts:
    """A whole repository."""

    encoders: dict[str, EncoderFacts]  # by tag
    heads: dict[str, HeadFacts]  # by name
    preprocess: PixelSpec | None = None  # the pixels that the model `preprocess` makes
    tokenize: int | None = None  # the context length of the model `tokenize`
    # what is wrong with each model that cannot be read: it and those that may belong to it stay as they are
    unreadable: tuple[str, ...] = ()

    @property
    def graph_models(self) -> set[str]:
        """Names of the models with a graph, and of those that name references."""
        names = {f"encoder_{tag}" for tag in self.encoders}
        names |= {f"text_encoder_{tag}" for tag, encoder in self.encoders.items() if encoder.text}
        names |= {f"{kind}_{name}" for name in self.heads for kind in ("head", "threshold")}
        return names | {f"references_{name}" for name, head in self.heads.items() if head.references}

    def heads_on(self, tag: str) -> list[HeadFacts]:
        """List the heads that read an encoder, by name."""
        return [head for _, head in sorted(self.heads.items()) if head.encoder == tag]

    def updated(self, encoders: Iterable[EncoderFacts], heads: Iterable[HeadFacts]) -> "Facts":
        """Describe the repository after an export: new ones replace old ones, towers that no head reads are dropped."""
        all_heads = self.heads | {head.name: head for head in heads}
        texts = {tag: encoder.text for tag, encoder in self.encoders.items()}
        kept = {}
        for tag, encoder in (self.encoders | {encoder.tag: encoder for encoder in encoders}).items():
            inputs = [head.inputs for head in all_heads.values() if head.encoder == tag]
            text = (encoder.text or texts.get(tag)) if any(map(reads_text, inputs)) else None
            if inputs:
                kept[tag] = replace(encoder, text=text)
        readable = {name: head for name, head in all_heads.items() if head.encoder in kept}
        return Facts(kept, readable, self.preprocess, self.tokenize, self.unreadable)


def read_facts(repository: Path) -> Facts:
    """Read back what an earlier export wrote; a missing or empty folder gives empty facts."""
    unreadable: list[str] = []
    configs = read_configs(repository, unreadable)
    encoders: dict[str, EncoderFacts] = {}
    heads: dict[str, HeadFacts] = {}
    preprocess = tokenize = None
    for name, config in configs.items():
        kind = parameter(config, "mlclip_kind")
        try:
            if kind == "encoder":
                encoder = _encoder(config, configs)
                encoders[encoder.tag] = encoder
            elif kind == "ensemble" and not name.endswith("_bytes"):
                head = _head(config, configs)
                heads[head.name] = head
            elif name == "preprocess":
                preprocess = _spec(config)
            elif name == "tokenize":
                tokenize = config.output[0].dims[0]
        except (KeyError, ValueError, TypeError, IndexError, StopIteration) as error:
            unreadable.append(f"{repository / name / CONFIG} is not as mlclip-export writes it ({error!r})")
    return Facts(encoders, heads, preprocess, tokenize, tuple(unreadable))


def read_configs(repository: Path, unreadable: list[str] | None = None) -> dict[str, pb.ModelConfig]:
    """Read the default config of every model that mlclip wrote: model name to ModelConfig message.

    `unreadable` gets a line for each config that cannot be parsed.
    """
    configs: dict[str, pb.ModelConfig] = {}
    for path in sorted(repository.glob(f"*/{CONFIG}")):
        try:
            config = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
        except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
            if unreadable is not None:
                unreadable.append(f"{path} cannot be read: {' '.join(str(error).split())}")
            continue
        if parameter(config, "mlclip_kind"):
            configs[path.parent.name] = config
    return configs


def parameter(config: pb.ModelConfig, key: str) -> str:
    """Read a parameter of a ModelConfig message; empty where it is not set."""
    return str(config.parameters[key].string_value) if key in config.parameters else ""


def reads_text(inputs: Iterable[str]) -> bool:
    """Tell whether texts are among a head's inputs."""
    return any(feature in TEXT_KINDS for feature in inputs)


def _encoder(config: pb.ModelConfig, configs: dict[str, pb.ModelConfig]) -> EncoderFacts:
    text = configs.get(f"text_{config.name}")
    dims = {output.name: list(output.dims) for output in config.output}
    token_count, token_width = dims.get("tokens", (0, 0))
    return EncoderFacts(
        tag=_needed(config, "encoder"),
        fingerprint=_needed(config, "fingerprint"),
        spec=_spec(config),
        embedding_width=dims["embedding"][0],
        token_count=token_count,
        token_width=token_width,
        max_batch=config.max_batch_size,
        exporter=parameter(config, "exporter"),
        text=None if text is None else _text(text),
        precision=parameter(config, "precision") or "fp32",
    )


def _text(config: pb.ModelConfig) -> TextFacts:
    count, width = next(output.dims for output in config.output if output.name == "text_tokens")
    return TextFacts(_needed(config, "fingerprint"), count, width, parameter(config, "exporter"))


def _head(ensemble: pb.ModelConfig, configs: dict[str, pb.ModelConfig]) -> HeadFacts:
    name = _needed(ensemble, "head")
    model = configs[f"head_{name}"]
    dims = {tensor.name: list(tensor.dims) for tensor in model.output}
    return HeadFacts(
        name=name,
        encoder=_needed(ensemble, "encoder"),
        inputs=tuple(tensor.name for tensor in model.input),
        labels=tuple(json.loads(_needed(ensemble, "labels"))),
        thresholds=tuple(json.loads(_needed(ensemble, "thresholds"))),
        max_batch=min(model.max_batch_size, configs[f"threshold_{name}"].max_batch_size),
        output=model.output[0].name,
        references=dims.get("reference_index", [0])[0],
        calibrated=parameter(ensemble, "calibrated") == "true",
        promise=parameter(ensemble, "promise"),
        novelty=any(output.name == "novelty" for output in ensemble.output),
        validation=parameter(ensemble, "validation"),
    )


def _spec(config: pb.ModelConfig) -> PixelSpec:
    return PixelSpec.of({key: value.string_value for key, value in config.parameters.items()})


def _needed(config: pb.ModelConfig, key: str) -> str:
    value = parameter(config, key)
    if not value:
        raise KeyError(key)
    return value
