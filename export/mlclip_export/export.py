"""Runs become models in a repository: trace, compare with torch, write."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mlclip.checkpoint import EncoderRef, Run, labels_file
from mlclip.encoders.clip import Encoder
from mlclip.errors import ExportError
from mlclip_export.accelerators import Variant
from mlclip_export.checked import CheckedGraphs
from mlclip_export.configs import ConfigOptions
from mlclip_export.facts import EncoderFacts, Facts, HeadFacts, read_facts
from mlclip_export.graphs import EXPORTER
from mlclip_export.layout import (
    ensemble_models,
    onnx_models,
    preprocess_models,
    preprocess_names,
    tokenize_models,
    tokenize_names,
)
from mlclip_export.parity import Difference
from mlclip_export.repository import Written, latest_version, locked, remove_models, write_models
from mlclip_export.tensorrt import require_tensorrt

Format = Literal["onnx", "tensorrt"]
Accelerator = Literal["none", "cuda", "tensorrt"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RESERVED = ("preprocess", "tokenize", "text_encoder_", "encoder_", "head_", "heads_", "threshold_", "references_")
_DEFAULTS: dict[Accelerator, Variant] = {"none": "cpu", "cuda": "cuda", "tensorrt": "tensorrt"}


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        format: `onnx`, or `tensorrt` to build plans beside the ONNX files, which needs TensorRT and a GPU.
        accelerator: which variant becomes the default config; all are written.
        tolerance: largest absolute difference from torch that is let through, over all outputs.
        configs: what may be chosen about configs.
    """

    format: Format = "onnx"
    accelerator: Accelerator = "none"
    tolerance: float = 1e-4
    configs: ConfigOptions = field(default_factory=ConfigOptions)


@dataclass(frozen=True)
class Report:
    """What an export did.

    Attributes:
        differences: how far each exported graph lies from torch.
        models: every model that this export was about, changed or not.
        removed: models of an earlier export that nothing needs any more.
    """

    differences: tuple[Difference, ...]
    models: tuple[Written, ...]
    removed: tuple[str, ...]


def export_runs(
    runs: Mapping[str, Run],
    repository: Path,
    options: ExportOptions = ExportOptions(),  # noqa: B008  (frozen)
    *,
    encoders: Sequence[Encoder] = (),
    on_step: Callable[[str], None] = lambda step: None,
) -> Report:
    """Add trained heads to a model repository, or update them there.

    Heads that are in the repository already stay; a combined ensemble names all heads of its encoder. Nothing is
    written before every graph has passed, nor while another export writes.

    Args:
        runs: name in the repository to run.
        repository: its folder; made where it does not exist.
        options: how to export.
        encoders: encoders that are loaded already; others are loaded as the runs say.
        on_step: called with the name of the model that comes next.

    Returns:
        Differences, models written, models removed.

    Raises:
        ExportError: a name cannot be used, encoders contradict each other, a graph cannot be made or differs from
            torch, TensorRT is asked for and missing, or the repository cannot be read or written.
        CheckpointError: a label holds a newline, or an encoder has other weights than in training.
        EncoderError: an encoder cannot be loaded.
    """
    finish_key = require_tensorrt() if options.format == "tensorrt" else ""
    for name, run in runs.items():
        _check_run(name, run)
    references = _references(runs)
    before = read_facts(repository)
    _check_encoders(references, runs, before)
    with tempfile.TemporaryDirectory(prefix="mlclip-export-") as scratch:
        made = _made_before(repository, before)
        graphs = CheckedGraphs(Path(scratch), options.tolerance, options.configs.max_batch, on_step, made)
        for tag, reference in references.items():
            its_runs = {name: run for name, run in runs.items() if run.encoder.tag == tag}
            graphs.add_encoder(_load(reference, encoders), its_runs)
        on_step("the repository")
        with locked(repository):
            before = read_facts(repository)  # with what another export has written meanwhile
            _check_encoders(references, runs, before)
            facts = _merged(before, graphs.encoders, graphs.heads)
            default: Variant = "plan" if options.format == "tensorrt" else _DEFAULTS[options.accelerator]
            preprocess, tokenize = preprocess_names(facts), tokenize_names(facts)
            models = [
                *preprocess_models(facts, preprocess, options.configs),
                *tokenize_models(facts, tokenize),
                *onnx_models(graphs, facts, options.configs, default, finish_key),
                *ensemble_models(facts, preprocess, tokenize),
            ]
            written = write_models(repository, models)
            kept = {f"{kind}_{name}" for name in facts.heads for kind in ("head", "threshold")}
            kept |= {f"references_{name}" for name, head in facts.heads.items() if head.references}
            kept |= {f"encoder_{tag}" for tag in facts.encoders} | {model.name for model in models}
            kept |= {f"text_encoder_{tag}" for tag, encoder in facts.encoders.items() if encoder.text}
            removed = remove_models(repository, kept)
    return Report(tuple(graphs.differences), tuple(written), tuple(removed))


def _check_run(name: str, run: Run) -> None:
    if not _NAME.fullmatch(name):
        raise ExportError(f"{name!r} cannot name a head: use letters, digits, '_', '-' and '.' (--name)")
    if name.startswith(_RESERVED) or name.endswith("_bytes"):
        raise ExportError(f"{name!r} cannot name a head: other models are called so; choose another --name")
    labels_file(run.labels)
    if len(run.thresholds) != len(run.labels):
        raise ExportError(f"head {name}: {len(run.thresholds)} thresholds for {len(run.labels)} labels; train it again")


def _references(runs: Mapping[str, Run]) -> dict[str, EncoderRef]:
    """Give the encoders that the runs read, by tag."""
    references: dict[str, EncoderRef] = {}
    for name, run in runs.items():
        reference = references.setdefault(run.encoder.tag, run.encoder)
        text_towers = {reference.text_fingerprint, run.encoder.text_fingerprint} - {None}
        if reference.fingerprint != run.encoder.fingerprint or len(text_towers) > 1:
            raise ExportError(
                f"head {name} was trained on other weights of {run.encoder.tag} than the other heads: train them "
                "on one encoder, or export to another --out"
            )
        if reference.text_fingerprint is None:
            references[run.encoder.tag] = run.encoder
    return references


def _check_encoders(references: Mapping[str, EncoderRef], runs: Mapping[str, Run], before: Facts) -> None:
    """Refuse to swap an encoder under heads that stay."""
    for tag, reference in references.items():
        served = before.encoders.get(tag)
        staying = [head.name for head in before.heads_on(tag) if head.name not in runs]
        if served is not None and served.fingerprint != reference.fingerprint and staying:
            raise ExportError(
                f"the repository's encoder_{tag} has other weights, and {', '.join(staying)} read it: export them "
                "too, or use another --out"
            )


def _made_before(repository: Path, before: Facts) -> dict[str, Path]:
    """Find graphs of encoders and text towers of an earlier export by the same exporter: fingerprint to folder."""
    made: dict[str, str] = {}
    for tag, encoder in before.encoders.items():
        if encoder.exporter == EXPORTER:
            made[encoder.fingerprint] = f"encoder_{tag}"
        if encoder.text and encoder.text.exporter == EXPORTER:
            made[encoder.text.fingerprint] = f"text_encoder_{tag}"
    return {fingerprint: latest_version(repository / model) for fingerprint, model in made.items()}


def _load(reference: EncoderRef, loaded: Sequence[Encoder]) -> Encoder:
    for encoder in loaded:
        if encoder.tag == reference.tag and reference.fits(encoder):
            return encoder
    return reference.load()


def _merged(before: Facts, encoders: Sequence[EncoderFacts], heads: Sequence[HeadFacts]) -> Facts:
    """Say what the repository will hold: new heads replace old ones, towers that no head reads go."""
    all_heads = before.heads | {head.name: head for head in heads}
    texts = {tag: encoder.text for tag, encoder in before.encoders.items()}
    texts |= {encoder.tag: encoder.text for encoder in encoders if encoder.text}
    with_text = {head.encoder for head in all_heads.values() if head.reads_text}
    kept = {
        tag: replace(encoder, text=texts[tag] if tag in with_text else None)
        for tag, encoder in (before.encoders | {encoder.tag: encoder for encoder in encoders}).items()
        if any(head.encoder == tag for head in all_heads.values())
    }
    return Facts(kept, all_heads, before.preprocess, before.tokenize)
