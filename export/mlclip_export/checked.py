"""Graphs that have been compared with torch: nothing else reaches a repository."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlclip.checkpoint import Run, references_file
from mlclip.encoders.clip import Encoder
from mlclip.errors import ExportError
from mlclip_export.facts import EncoderFacts, HeadFacts, TextFacts, reads_text, shortest
from mlclip_export.graphs import FILE, write_encoder, write_head, write_threshold
from mlclip_export.parity import BATCHES, Difference, compare, compare_threshold, refuse_if_apart
from mlclip_export.python_heads import PythonHead, compare_python, python_head
from mlclip_export.text_graph import check_served_text, text_cases, write_text_encoder

Features = dict[str, Tensor]


class CheckedGraphs:
    """The graphs of one export, in a scratch folder, each compared as soon as it is made.

    Attributes:
        folders: model name to the folder with its `model.onnx`.
        differences: one an output, so far.
        encoders: those that were added.
        heads: those that were added.
        references: head name to the bytes of its references.jsonl, for heads that name references.
        python_heads: head name to its Python model, for heads that are no graphs.
    """

    def __init__(
        self,
        scratch: Path,
        tolerance: float,
        max_batch: int,
        on_step: Callable[[str], None],
        made: Mapping[str, Path],
    ) -> None:
        """Start with none.

        Args:
            scratch: an empty folder.
            tolerance: largest difference from torch that is let through.
            max_batch: largest batch that Triton shall build.
            on_step: called with the name of the model that comes next.
            made: fingerprint of an encoder or a text tower to a folder with its graph, from an earlier export.
        """
        self.folders: dict[str, Path] = {}
        self.differences: list[Difference] = []
        self.encoders: list[EncoderFacts] = []
        self.heads: list[HeadFacts] = []
        self.references: dict[str, bytes] = {}
        self.python_heads: dict[str, PythonHead] = {}
        self._scratch, self._tolerance, self._max_batch = scratch, tolerance, max_batch
        self._on_step, self._made = on_step, made

    def add_encoder(self, encoder: Encoder, runs: Mapping[str, Run]) -> None:
        """Make the graphs of an encoder and of the heads that read it.

        Raises:
            ExportError: a graph cannot be made, differs from torch, or a head does not fit the encoder.
        """
        for name, run in runs.items():
            _check_inputs(name, run, encoder)
        model = f"encoder_{encoder.tag}"
        folder, cases = self._folder(model), list(_encoder_cases(encoder))
        differences = self._use_again(model, encoder.fingerprint, folder, cases)
        if not differences:
            write_encoder(encoder, folder)
            differences = compare(model, folder / FILE, _numpy(cases))
        self._judge(differences)
        features = [outputs for _, outputs in cases]
        facts = _encoder_facts(encoder, self._max_batch)
        if any(reads_text(run.head.inputs) for run in runs.values()):
            texts = self._add_text_encoder(encoder)
            features = [image | text for image, text in zip(features, texts, strict=True)]
            facts = replace(facts, text=_text_facts(encoder))
        self.encoders.append(facts)
        for name, run in runs.items():
            self._add_head(name, run, features)

    def _add_text_encoder(self, encoder: Encoder) -> list[Features]:
        """Make the graph of an encoder's text tower; give what torch computes for some texts, batch by batch."""
        check_served_text(encoder)
        model = f"text_encoder_{encoder.tag}"
        folder, cases = self._folder(model), list(text_cases(encoder))
        differences = self._use_again(model, encoder.text_fingerprint, folder, cases)
        if not differences:
            write_text_encoder(encoder, folder)
            differences = compare(model, folder / FILE, _numpy(cases))
        self._judge(differences)
        return [features for _, features in cases]

    def _use_again(
        self, model: str, fingerprint: str, folder: Path, cases: Sequence[tuple[Features, Features]]
    ) -> list[Difference]:
        """Copy the graph of an earlier export, which saves the tracing; give nothing where it will not do."""
        if fingerprint not in self._made:
            return []
        for file in self._made[fingerprint].glob(f"{FILE}*"):
            shutil.copyfile(file, folder / file.name)
        try:
            differences = compare(model, folder / FILE, _numpy(cases))
            refuse_if_apart(differences, self._tolerance)
        except ExportError:
            return []
        return differences

    def _add_head(self, name: str, run: Run, features: Sequence[Features]) -> None:
        model, threshold = f"head_{name}", f"threshold_{name}"
        run.head.eval()
        inputs = [{feature: batch[feature] for feature in run.head.inputs} for batch in features]
        cases = [(feeds, _outputs(model, run, feeds)) for feeds in inputs]
        facts = _head_facts(name, run, cases[0][1], self._max_batch)
        example = [tensor[:1].expand(2, *tensor.shape[1:]).contiguous() for tensor in inputs[0].values()]
        served = python_head(run.head)
        if served is None:
            write_head(run.head, example, self._folder(model))
            self._judge(compare(model, self.folders[model] / FILE, _numpy(cases)))
        else:
            self.python_heads[name] = served
            self._judge(compare_python(model, served, self._folder(model), _numpy(cases)))
        write_threshold(run.thresholds, facts.output, self._folder(threshold))
        self._judge(compare_threshold(threshold, self.folders[threshold] / FILE, run.thresholds, facts.output))
        if facts.references:
            self.references[name] = references_file(run)
        self.heads.append(facts)

    def _folder(self, model: str) -> Path:
        self._on_step(model)
        self.folders[model] = self._scratch / model
        self.folders[model].mkdir()
        return self.folders[model]

    def _judge(self, differences: Sequence[Difference]) -> None:
        self.differences.extend(differences)
        refuse_if_apart(differences, self._tolerance)


def _check_inputs(name: str, run: Run, encoder: Encoder) -> None:
    if "tokens" in run.head.inputs and not encoder.token_count:
        raise ExportError(
            f"head {name} reads tokens, and the encoder {encoder.name} gives none (a ResNet-style tower): train it "
            "with --memory pooled"
        )


@torch.no_grad()
def _encoder_cases(encoder: Encoder) -> Iterator[tuple[Features, Features]]:
    """Run the encoder on random pixels, drawn with a fixed seed."""
    draw = torch.Generator().manual_seed(0)
    size = encoder.spec.size
    for batch in BATCHES:
        pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, generator=draw)
        embedding, tokens = encoder(pixels)
        features = {"embedding": embedding} if tokens is None else {"embedding": embedding, "tokens": tokens}
        yield {"pixels": pixels}, {**features, "embedding_out": embedding}


@torch.no_grad()
def _outputs(model: str, run: Run, feeds: Features) -> Features:
    try:
        outputs = run.head(*feeds.values())
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ExportError(f"{model} does not fit the encoder {run.encoder.name}: {reason}") from error
    together = (outputs,) if isinstance(outputs, Tensor) else outputs
    return dict(zip(run.head.outputs, together, strict=True))


def _numpy(cases: Sequence[tuple[Features, Features]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [
        ({name: tensor.numpy() for name, tensor in feeds.items()}, {name: t.numpy() for name, t in outputs.items()})
        for feeds, outputs in cases
    ]


def _encoder_facts(encoder: Encoder, max_batch: int) -> EncoderFacts:
    return EncoderFacts(
        tag=encoder.tag,
        fingerprint=encoder.fingerprint,
        spec=encoder.spec,
        embedding_width=encoder.embedding_width,
        token_count=encoder.token_count,
        token_width=encoder.token_width,
        max_batch=max_batch,
    )


def _text_facts(encoder: Encoder) -> TextFacts:
    return TextFacts(encoder.text_fingerprint, encoder.text_token_count, encoder.text_token_width)


def _head_facts(name: str, run: Run, outputs: Features, max_batch: int) -> HeadFacts:
    named = outputs.get("reference_index")
    return HeadFacts(
        name=name,
        encoder=run.encoder.tag,
        inputs=tuple(run.head.inputs),
        labels=run.labels,
        thresholds=shortest(run.thresholds),
        max_batch=max_batch,
        output=run.head.outputs[0],
        references=0 if named is None else named.shape[1],
    )
