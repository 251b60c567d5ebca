"""A whole run: choose what fits into memory, export, load, take turns."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlclip.encoders.clip import DEFAULT_ENCODER, RANDOM, Encoder, load_encoder
from mlclip.provenance import provenance
from mlclip_bench.scaling.build import CostEstimate, on_paper, shapes_of
from mlclip_bench.scaling.cases import ENCODER, Case, Series, SkippedPoint, plan
from mlclip_bench.scaling.memory import fitting
from mlclip_bench.scaling.results import Raw, series_line
from mlclip_bench.scaling.rounds import RetryPolicy, take_turns
from mlclip_bench.scaling.sources import Parts, in_process
from mlclip_bench.scaling.triton import head_threads, served

GRAPHS = "graphs"
Through = Literal["onnxruntime", "triton"]


@dataclass(frozen=True)
class Settings:
    """What a run measures.

    Attributes:
        classes: N, ascending.
        groups: K of `mld`; None for K = N.
        heads: see `cases.plan`.
        batches: images a call, ascending.
        encoder: an open_clip name; its weights are random unless `pretrained` names some.
        pretrained: see `load_encoder`.
        label_sets: sets that data shows, by N, and `label_sets_of`, the name of that data.
        label_sets_of: see `label_sets`.
        references: of the neighbour heads.
        through: `onnxruntime`, in processes of our own, or `triton`.
        threads: of onnxruntime; 0 takes all cores, or in a Triton server what `mlclip-export` chooses.
        minutes: no round starts that would end later, but the first three.
    """

    classes: tuple[int, ...]
    groups: tuple[int | None, ...]
    heads: tuple[str, ...]
    batches: tuple[int, ...]
    encoder: str
    pretrained: str | None
    label_sets: Mapping[int, int]
    label_sets_of: str
    references: int
    through: Through
    threads: int
    minutes: float


@dataclass(frozen=True)
class Watch:
    """What to call while a run goes on.

    Attributes:
        step: with what is being done, the steps done and all steps.
        turn: see `take_turns`.
    """

    step: Callable[[str, int, int], None]
    turn: Callable[[int, int, int], None]


def run(settings: Settings, folder: Path, watch: Watch, *, resume: bool = False) -> Raw:
    """Measure, or go on measuring, all points of a run.

    Args:
        settings: what to measure.
        folder: for raw lines; graphs lie in it until the run has ended.
        watch: is told of progress.
        resume: go on with what the folder holds.

    Raises:
        MlclipError: settings that make no sense, a graph that differs from torch, or a folder that cannot be used.
    """
    clock, until = time.monotonic, time.monotonic() + 60 * settings.minutes
    raw = Raw(folder)
    encoder = _encoder(settings)
    series, left = plan(settings.classes, settings.groups, settings.heads, settings.label_sets, settings.references)
    raw.start(_asked(settings, series, encoder), provenance(), resume)
    for one in left:
        raw.add_left(one)
    papers = _papers(series, encoder, raw, watch)
    parts = Parts(fitting(papers, settings.batches, raw, series), papers, encoder, raw, folder / GRAPHS, watch.step)
    source = (served if settings.through == "triton" else in_process)(parts, settings.threads)
    with source as (points, measure):
        medians = raw.medians()
        take_turns(
            points,
            measure,
            {point: medians.get(point, []) for point in points},
            RetryPolicy(until=until),
            clock,
            raw.add_round,
            watch.turn,
        )
    raw.append({"kind": "end"})
    shutil.rmtree(folder / GRAPHS, ignore_errors=True)
    return raw


def _encoder(settings: Settings) -> Encoder:
    own_weights = settings.encoder == DEFAULT_ENCODER or Path(settings.encoder).is_dir()
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # open_clip warns of the random weights that were asked for
    try:
        return load_encoder(settings.encoder, settings.pretrained or (None if own_weights else RANDOM))
    finally:
        root.setLevel(level)


def _asked(settings: Settings, series: Sequence[Series], encoder: Encoder) -> dict[str, Any]:
    shapes, threads = shapes_of(encoder), settings.threads or os.cpu_count() or 1
    return {
        "classes": settings.classes,
        "batches": settings.batches,
        "through": settings.through,
        "threads": threads,
        "head_threads": head_threads(settings.threads) if settings.through == "triton" else threads,
        "encoder": {
            "tag": encoder.tag,
            "size": encoder.spec.size,
            "D": shapes.embedding_width,
            "T": shapes.token_count,
            "W": shapes.token_width,
        },
        "references": settings.references,
        "label_sets_of": settings.label_sets_of,
        "series": series_line(series),
    }


def _papers(series: Sequence[Series], encoder: Encoder, raw: Raw, watch: Watch) -> dict[Case, CostEstimate]:
    """All cases with their costs on paper; what the encoder cannot feed is left out."""
    shapes, papers = shapes_of(encoder), {Case(ENCODER): on_paper(Case(ENCODER), shapes_of(encoder), encoder)}
    for one in series:
        for case in one.cases:
            watch.step(f"counting {one.title}", 0, 0)
            try:
                papers[case] = on_paper(case, shapes, encoder)
            except ValueError as error:
                raw.add_left(SkippedPoint(one.title, case.classes, str(error)))
    return papers
