"""What a model repository says about its encoders and heads, and what configs are written from.

The repository itself is the only record: these values are read back from the configs in it, so a later export
knows the heads that are already there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import text_format
from mlclip_client.pixels import PixelSpec
from tritonclient.grpc import model_config_pb2

from mlclip.encoders.features import TEXT_KINDS
from mlclip.errors import ExportError


@dataclass(frozen=True)
class TextFacts:
    """An encoder's text tower in the repository, its model being `text_encoder_<tag>`.

    Attributes:
        fingerprint: digest of its weights.
        token_count: L, the context length.
        token_width: V.
        exporter: what made its graph; empty before there is one.
    """

    fingerprint: str
    token_count: int
    token_width: int
    exporter: str = ""


@dataclass(frozen=True)
class EncoderFacts:
    """An encoder in the repository.

    Attributes:
        tag: its model is `encoder_<tag>`.
        fingerprint: digest of its weights and preprocessing.
        spec: the pixels it wants.
        embedding_width: D.
        token_count: T, or 0.
        token_width: W, or 0.
        max_batch: largest batch its model takes.
        exporter: what made its graph; empty before there is one.
        text: its text tower, where a head reads texts.
    """

    tag: str
    fingerprint: str
    spec: PixelSpec
    embedding_width: int
    token_count: int
    token_width: int
    max_batch: int
    exporter: str = ""
    text: TextFacts | None = None


@dataclass(frozen=True)
class HeadFacts:
    """A head in the repository.

    Attributes:
        name: its models are `head_<name>`, `threshold_<name>`, `<name>` and `<name>_bytes`.
        encoder: tag of the encoder it reads.
        inputs: the encoder's outputs that it takes, in order.
        labels: N class names.
        thresholds: float32 values, one a class.
        max_batch: largest batch its models take.
        output: `logits` or `scores`: what its model gives to the threshold model.
        references: R', how many references its model names for an image; 0 where it names none.
    """

    name: str
    encoder: str
    inputs: tuple[str, ...]
    labels: tuple[str, ...]
    thresholds: tuple[float, ...]
    max_batch: int
    output: str = "logits"
    references: int = 0

    @property
    def reads_text(self) -> bool:
        """Whether texts are among its inputs."""
        return reads_text(self.inputs)


@dataclass(frozen=True)
class Facts:
    """All encoders by tag, all heads by name, and what the models `preprocess` and `tokenize` make.

    Attributes:
        encoders: by tag.
        heads: by name.
        preprocess: the pixels of `preprocess`.
        tokenize: the context length of `tokenize`.
    """

    encoders: dict[str, EncoderFacts]
    heads: dict[str, HeadFacts]
    preprocess: PixelSpec | None = None
    tokenize: int | None = None

    def heads_on(self, tag: str) -> list[HeadFacts]:
        """List the heads that read an encoder, by name."""
        return [head for _, head in sorted(self.heads.items()) if head.encoder == tag]


def read_facts(repository: Path) -> Facts:
    """Read back what an earlier export wrote; a missing or empty folder holds nothing.

    Raises:
        ExportError: a config cannot be read or lacks what the export writes.
    """
    configs = read_configs(repository)
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
        except (KeyError, ValueError, TypeError) as error:
            raise ExportError(
                f"{repository / name / 'config.pbtxt'} is not as mlclip-export writes it ({error!r}): remove the "
                "model's folder, or export to another --out"
            ) from error
    return Facts(encoders, heads, preprocess, tokenize)


def read_configs(repository: Path) -> dict[str, Any]:
    """Read the default config of every model that mlclip wrote: model name to ModelConfig message.

    Raises:
        ExportError: a config cannot be parsed.
    """
    configs: dict[str, Any] = {}
    for path in sorted(repository.glob("*/config.pbtxt")):
        try:
            config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
            raise ExportError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
        if parameter(config, "mlclip_kind"):
            configs[path.parent.name] = config
    return configs


def parameter(config: Any, key: str) -> str:
    """Read a parameter of a ModelConfig message; empty where it is not set."""
    return str(config.parameters[key].string_value) if key in config.parameters else ""


def shortest(thresholds: npt.NDArray[np.float32]) -> tuple[float, ...]:
    """Give each float32 as the float64 with the shortest decimal that reads back as the same float32."""
    return tuple(float(str(value)) for value in thresholds.astype(np.float32))


def reads_text(inputs: Iterable[str]) -> bool:
    """Tell whether texts are among a head's inputs."""
    return any(feature in TEXT_KINDS for feature in inputs)


def _encoder(config: Any, configs: dict[str, Any]) -> EncoderFacts:
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
    )


def _text(config: Any) -> TextFacts:
    count, width = next(output.dims for output in config.output if output.name == "text_tokens")
    return TextFacts(_needed(config, "fingerprint"), count, width, parameter(config, "exporter"))


def _head(ensemble: Any, configs: dict[str, Any]) -> HeadFacts:
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
    )


def _spec(config: Any) -> PixelSpec:
    return PixelSpec(
        size=int(_needed(config, "image_size")),
        interpolation=_needed(config, "interpolation"),
        resize_mode=_needed(config, "resize_mode"),
        fill=int(_needed(config, "fill")),
    )


def _needed(config: Any, key: str) -> str:
    value = parameter(config, key)
    if not value:
        raise KeyError(key)
    return value
