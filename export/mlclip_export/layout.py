"""Which models a repository needs for its encoders and heads, each as something that can be written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlclip_client import pixels
from mlclip_client.pixels import PixelSpec

from mlclip.checkpoint import labels_file
from mlclip_export.accelerators import ONNX_VARIANTS, Stamp, Variant
from mlclip_export.checked import CheckedGraphs
from mlclip_export.configs import (
    ConfigOptions,
    encoder_config,
    head_config,
    preprocess_config,
    python_head_config,
    references_config,
    text_encoder_config,
    threshold_config,
    tokenize_config,
)
from mlclip_export.ensembles import LABELS, FirstSteps, Via, combined_config, ensemble_config
from mlclip_export.facts import Facts
from mlclip_export.repository import CONFIG, Model
from mlclip_export.served import preprocess, references
from mlclip_export.tensorrt import build_plan

_VIAS: tuple[Via, ...] = ("pixels", "bytes")


def preprocess_models(facts: Facts, names: Mapping[PixelSpec, str], options: ConfigOptions) -> list[Model]:
    """Give the preprocessing models: one for each kind of pixels that an encoder wants."""
    files: dict[str, Path | bytes] = {"model.py": _source(preprocess), "pixels.py": _source(pixels)}
    models = []
    for spec, name in names.items():
        max_batch = max(encoder.max_batch for encoder in facts.encoders.values() if encoder.spec == spec)
        models.append(Model(name, _one(preprocess_config, name, spec, max_batch, options), files))
    return models


def preprocess_names(facts: Facts) -> dict[PixelSpec, str]:
    """Name the preprocessing models.

    There is nearly always one, `preprocess`. Where encoders want different pixels, it stays what it was before,
    and the others are named after their pixels.
    """
    specs = list(dict.fromkeys(encoder.spec for _, encoder in sorted(facts.encoders.items())))
    first = facts.preprocess if facts.preprocess in specs else specs[0]
    return {spec: "preprocess" if spec == first else _long_name(spec) for spec in specs}


def tokenize_models(facts: Facts, names: Mapping[int, str]) -> list[Model]:
    """Give the models that make token ids: one for each context length that a served text tower wants."""
    files: dict[str, Path | bytes] = {"model.py": (Path(__file__).parent / "served" / "tokenize.py").read_bytes()}
    models = []
    for length, name in names.items():
        max_batch = max(e.max_batch for e in facts.encoders.values() if e.text and e.text.token_count == length)
        models.append(Model(name, _one(tokenize_config, name, length, max_batch), files))
    return models


def tokenize_names(facts: Facts) -> dict[int, str]:
    """Name the models that make token ids, `tokenize`, and where context lengths differ the others after theirs."""
    lengths = sorted({encoder.text.token_count for encoder in facts.encoders.values() if encoder.text})
    first = facts.tokenize if facts.tokenize in lengths else next(iter(lengths), None)
    return {length: "tokenize" if length == first else f"tokenize_{length}" for length in lengths}


def onnx_models(
    graphs: CheckedGraphs, facts: Facts, options: ConfigOptions, default: Variant, finish_key: str = ""
) -> list[Model]:
    """Give the models that run graphs, encoders, heads and thresholds, and those that name references.

    Args:
        graphs: those to write.
        facts: all of the repository.
        options: what may be chosen about configs.
        default: the variant that becomes config.pbtxt; with `plan`, plans are built.
        finish_key: what plans depend on besides the graphs: TensorRT's version.
    """
    variants = ONNX_VARIANTS if default != "plan" else (*ONNX_VARIANTS, default)
    models = []
    for encoder in graphs.encoders:
        arguments: tuple[Any, ...] = (encoder, options)
        name = f"encoder_{encoder.tag}"
        models.append(_graph_model(name, encoder_config, arguments, variants, default, graphs.folders))
        if encoder.text:
            name = f"text_{name}"
            models.append(_graph_model(name, text_encoder_config, arguments, variants, default, graphs.folders))
    for head in graphs.heads:
        if head.name not in graphs.python_heads:
            arguments = (head, facts.encoders[head.encoder], options)
            models.append(_graph_model(f"head_{head.name}", head_config, arguments, variants, default, graphs.folders))
    if default == "plan":
        models = [_with_plan(model, options.fp16, finish_key) for model in models]
    for name, served in graphs.python_heads.items():
        head = facts.heads[name]
        configs = _one(python_head_config, head, facts.encoders[head.encoder], served.parameters)
        models.append(Model(f"head_{name}", configs, served.contents()))
    for head in graphs.heads:
        name = f"threshold_{head.name}"
        models.append(Model(name, _one(threshold_config, head), _files(graphs.folders[name])))
        if head.references:
            files = {"model.py": _source(references), "references.jsonl": graphs.references[head.name]}
            models.append(Model(f"references_{head.name}", _one(references_config, head), files))
    return models


def ensemble_models(facts: Facts, preprocess: Mapping[PixelSpec, str], tokenize: Mapping[int, str]) -> list[Model]:
    """Give all ensembles: two for each head, and two for each encoder that has heads."""
    first = {
        tag: FirstSteps(preprocess[encoder.spec], tokenize[encoder.text.token_count] if encoder.text else "")
        for tag, encoder in facts.encoders.items()
    }
    models = []
    for head in facts.heads.values():
        encoder = facts.encoders[head.encoder]
        labels = {LABELS: labels_file(head.labels)}
        for via in _VIAS:
            configs = _one(ensemble_config, head, encoder, first[encoder.tag], via)
            models.append(_ensemble(configs, labels))
    for encoder in facts.encoders.values():
        heads = facts.heads_on(encoder.tag)
        for via in _VIAS:
            models.append(_ensemble(_one(combined_config, heads, encoder, first[encoder.tag], via), {}))
    return models


def _graph_model(
    name: str,
    make: Callable[..., Any],
    arguments: tuple[Any, ...],
    variants: Iterable[Variant],
    default: Variant,
    folders: Mapping[str, Path],
) -> Model:
    def configs(stamp: Stamp) -> dict[str, Any]:
        made = {f"configs/{variant}.pbtxt": make(*arguments, variant, stamp) for variant in variants}
        return {CONFIG: make(*arguments, default, stamp), **made}

    return Model(name, configs, _files(folders[name]))


def _with_plan(model: Model, fp16: bool, key: str) -> Model:
    config = model.configs(Stamp(0, ""))[CONFIG]
    return replace(
        model, finish=lambda version: build_plan(version, config, fp16), finish_key=f"tensorrt {key} fp16 {fp16}"
    )


def _ensemble(configs: Callable[[Stamp], dict[str, Any]], beside: Mapping[str, bytes]) -> Model:
    config = configs(Stamp(0, ""))[CONFIG]
    uses = tuple(step.model_name for step in config.ensemble_scheduling.step)
    return Model(config.name, configs, beside=beside, uses=uses)


def _one(make: Callable[..., Any], *arguments: Any) -> Callable[[Stamp], dict[str, Any]]:
    return lambda stamp: {CONFIG: make(*arguments)}


def _files(folder: Path) -> dict[str, Path | bytes]:
    return {path.name: path for path in sorted(folder.iterdir())}


def _source(module: Any) -> bytes:
    return Path(module.__file__).read_bytes()


def _long_name(spec: PixelSpec) -> str:
    return f"preprocess_{spec.size}_{spec.resize_mode}_{spec.interpolation}_{spec.fill}"
