"""The graphs of an encoder and of the heads on it, with what torch computes for the same inputs."""

import importlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlclip.checkpoint import Run, shortest
from mlclip.encoders.clip import Encoder
from mlclip.errors import ExportError
from mlclip.heads import PythonModel
from mlclip_export.facts import EncoderFacts, HeadFacts, TextFacts, reads_text
from mlclip_export.graphs import FILE, write_encoder, write_head, write_threshold
from mlclip_export.options import Precision
from mlclip_export.parity import BATCHES, Case, Difference, Graph, compare, compare_threshold, differences_of
from mlclip_export.text_graph import check_served_text, text_cases, write_text_encoder

Features = dict[str, Tensor]
Cases = Sequence[tuple[Features, Features]]
"""Inputs and torch's outputs, both by name, per batch."""


@dataclass(frozen=True)
class Workshop:
    """Where and how graphs are built."""

    scratch: Path  # an empty folder
    max_batch: int  # largest batch that Triton builds
    # fingerprint of an encoder or a text tower to the folder of its graph, from an earlier export
    earlier: Mapping[str, Path]
    on_step: Callable[[str], None]  # called with the name of the next model
    precision: Precision = "fp32"  # of the encoders, which `reduce` gives them, unless it is None
    reduce: Callable[[Encoder, Graph, Mapping[str, Run]], tuple[Graph, dict[str, Run]]] | None = None

    def folder(self, model: str) -> Path:
        """Make the folder for a model's files."""
        self.on_step(model)
        (self.scratch / model).mkdir()
        return self.scratch / model


@dataclass(frozen=True)
class Built:
    """An encoder and the heads on it, with their graphs and their runs, some of which may have been trained again."""

    encoder: EncoderFacts
    heads: tuple[HeadFacts, ...]
    graphs: tuple[Graph, ...]
    runs: Mapping[str, Run]


def build_graphs(encoder: Encoder, runs: Mapping[str, Run], workshop: Workshop) -> Built:
    """Build the graphs of an encoder and of the heads that read it.

    Raises ExportError if a graph cannot be built, or a head does not fit the encoder.
    """
    cases, text = list(_encoder_cases(encoder)), None
    write = partial(write_encoder, encoder)
    graphs = [_tower(f"encoder_{encoder.tag}", encoder.fingerprint, write, cases, workshop)]
    if workshop.reduce is not None:
        workshop.on_step(f"encoder_{encoder.tag} in {workshop.precision}")
        graphs[0], runs = workshop.reduce(encoder, graphs[0], runs)
    features = [outputs for _, outputs in cases]
    if any(reads_text(run.head.inputs) for run in runs.values()):
        check_served_text(encoder)
        cases, write = list(text_cases(encoder)), partial(write_text_encoder, encoder)
        graphs.append(_tower(f"text_encoder_{encoder.tag}", encoder.text_fingerprint, write, cases, workshop))
        features = [image | words for image, (_, words) in zip(features, cases, strict=True)]
        text = TextFacts(encoder.text_fingerprint, encoder.text_token_count, encoder.text_token_width)
    heads = []
    for name, run in runs.items():
        head, its_graphs = _head(name, run, features, workshop)
        heads.append(head)
        graphs += its_graphs
    facts = EncoderFacts(
        tag=encoder.tag,
        fingerprint=encoder.fingerprint,
        spec=encoder.spec,
        embedding_width=encoder.embedding_width,
        token_count=encoder.token_count,
        token_width=encoder.token_width,
        max_batch=workshop.max_batch,
        text=text,
        precision=workshop.precision,
    )
    return Built(facts, tuple(heads), tuple(graphs), runs)


def _tower(model: str, fingerprint: str, write: Callable[[Path], None], cases: Cases, workshop: Workshop) -> Graph:
    """Copy an earlier export's graph of the same weights, which saves the tracing, or trace it."""
    folder = workshop.folder(model)
    compared = partial(compare, model, folder / FILE, _arrays(cases))
    if fingerprint not in workshop.earlier:
        write(folder)
        return Graph(model, folder, compared)
    for file in workshop.earlier[fingerprint].glob(f"{FILE}*"):
        shutil.copyfile(file, folder / file.name)
    return Graph(model, folder, compared, rebuild=partial(write, folder))


def _head(
    name: str, run: Run, features: Sequence[Features], workshop: Workshop
) -> tuple[HeadFacts, tuple[Graph, Graph]]:
    """Build a head's graph, or the files of its Python model, and its threshold model."""
    model, threshold = f"head_{name}", f"threshold_{name}"
    run.head.eval()
    inputs = [{feature: batch[feature] for feature in run.head.inputs} for batch in features]
    cases = [(feeds, _outputs(model, run, feeds)) for feeds in inputs]
    facts, folder = _head_facts(name, run, cases[0][1], workshop.max_batch), workshop.folder(model)
    served = run.head.python_model()
    if served is None:
        example = [tensor[:1].expand(2, *tensor.shape[1:]).contiguous() for tensor in inputs[0].values()]
        write_head(run.head, example, folder)
        head = Graph(model, folder, partial(compare, model, folder / FILE, _arrays(cases)))
    else:
        _write_python(served, folder)
        compared = partial(_compare_python, model, served, folder, _arrays(cases))
        head = Graph(model, folder, compared, parameters=served.parameters)
    folder = workshop.folder(threshold)
    own = run.calibration, run.novelty
    write_threshold(run.thresholds, facts.output, folder, *own)
    checked = partial(compare_threshold, threshold, folder / FILE, run.thresholds, facts.output, *own)
    return facts, (head, Graph(threshold, folder, checked))


def _write_python(served: PythonModel, folder: Path) -> None:
    """Write all files of the version's folder."""
    shutil.copyfile(_script(served).__file__, folder / "model.py")
    for name, content in served.files.items():
        (folder / name).write_bytes(content)


def _compare_python(model: str, served: PythonModel, folder: Path, cases: Iterable[Case]) -> list[Difference]:
    """Open the files of a Python model in a folder as Triton does, and compare each output with torch's."""
    search = _script(served).open_search(folder, served.parameters)
    return differences_of(model, ((search.answer(feeds["embedding"]), expected) for feeds, expected in cases))


def _script(served: PythonModel) -> Any:
    return importlib.import_module(f"mlclip_export.served.{served.script}")


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


def _arrays(cases: Cases) -> list[Case]:
    return [
        ({name: tensor.numpy() for name, tensor in feeds.items()}, {name: t.numpy() for name, t in outputs.items()})
        for feeds, outputs in cases
    ]


def _head_facts(name: str, run: Run, outputs: Features, max_batch: int) -> HeadFacts:
    named, promise = outputs.get("reference_index"), run.training.get("promise")
    return HeadFacts(
        name=name,
        encoder=run.encoder.tag,
        inputs=tuple(run.head.inputs),
        labels=run.labels,
        thresholds=shortest(run.thresholds),
        max_batch=max_batch,
        output=run.head.outputs[0],
        references=0 if named is None else named.shape[1],
        calibrated=run.calibration is not None,
        promise=json.dumps(promise, ensure_ascii=False) if promise else "",
        novelty=run.novelty is not None,
        validation=_validation(run),
    )


def _validation(run: Run) -> str:
    """How many validation images there were, and how often each class was selected, as JSON; empty if unknown."""
    found = run.metrics.get("val") or {}
    selected = {row["label"]: row["selected"] for row in found.get("per_class", ())}
    if set(selected) != set(run.labels):
        return ""
    return json.dumps({"images": found["images"], "selected": [selected[label] for label in run.labels]})
