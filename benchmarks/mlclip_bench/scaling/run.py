"""A whole run: choose what fits into memory, export, load, take turns."""

import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from mlclip.encoders import DEFAULT_ENCODER
from mlclip.encoders.clip import RANDOM, Encoder, load_encoder
from mlclip.provenance import provenance
from mlclip_bench.kit.progress import Step
from mlclip_bench.scaling.build import CostEstimate, estimate, shapes_of
from mlclip_bench.scaling.cases import ENCODER, Case, Series, SkippedPoint, plan
from mlclip_bench.scaling.results import Results, medians, series_lines
from mlclip_bench.scaling.rounds import Point, Schedule, take_turns
from mlclip_bench.scaling.sources import Parts, in_process
from mlclip_bench.scaling.triton import head_threads, served

GRAPHS = "graphs"
SHARE = 0.8  # of the memory that is free when the run starts, for all graphs together
Through = Literal["onnxruntime", "triton"]


@dataclass(frozen=True)
class Settings:
    """What a run measures."""

    classes: tuple[int, ...]  # N, ascending
    groups: tuple[int | None, ...]  # K of `mld`; None for K = N
    heads: tuple[str, ...]
    batches: tuple[int, ...]  # images per call, ascending
    encoder: str  # an open_clip name, with random weights unless `pretrained` names some
    pretrained: str | None
    label_sets: Mapping[int, int]  # number of label sets in the data `label_sets_of`, by N
    label_sets_of: str
    references: int  # number of references of the neighbour heads
    through: Through
    threads: int  # of onnxruntime; 0 takes all cores, or in a server what `mlclip-export` chooses
    minutes: float  # no round starts that would end later, except the first three


def run(settings: Settings, folder: Path, on_step: Step, *, resume: bool = False) -> Results:
    """Measure all points of a run, or with `resume` those that are still missing; raises MlclipError if that fails.

    Raw lines go into a folder; graphs stay in it until the run has ended.
    """
    until = time.monotonic() + 60 * settings.minutes
    results = Results(folder)
    encoder = _encoder(settings)
    series, skipped = plan(settings.classes, settings.groups, settings.heads, settings.label_sets, settings.references)
    results.start(_asked(settings, series, encoder), provenance(), resume)
    for point in skipped:
        results.add_skipped(point)
    estimates = _estimates(series, encoder, results, on_step)
    points = fitting(estimates, settings.batches, results, series)
    parts = Parts(points, estimates, encoder, results, folder / GRAPHS, settings.threads, on_step)
    with (served if settings.through == "triton" else in_process)(parts) as (turns, measure):
        known = medians(results.calls())
        before = {point: known.get(point, []) for point in turns}
        take_turns(turns, measure, before, Schedule(until=until), time.monotonic, results.add_round, on_step)
    results.append({"kind": "end"})
    shutil.rmtree(folder / GRAPHS, ignore_errors=True)
    return results


def _encoder(settings: Settings) -> Encoder:
    own_weights = settings.encoder == DEFAULT_ENCODER or Path(settings.encoder).is_dir()
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # open_clip warns about the random weights that were asked for
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
        "series": series_lines(series),
    }


def _estimates(series: Sequence[Series], encoder: Encoder, results: Results, on_step: Step) -> dict[Case, CostEstimate]:
    """The cost of all cases; heads that read what the encoder lacks are written as skipped."""
    shapes = shapes_of(encoder)
    estimates = {Case(ENCODER): estimate(Case(ENCODER), shapes, encoder)}
    for one in series:
        for case in one.cases:
            on_step(f"counting {one.title}", 0, 0)
            try:
                estimates[case] = estimate(case, shapes, encoder)
            except ValueError as error:
                results.add_skipped(SkippedPoint(one.title, case.classes, str(error)))
    return estimates


def fitting(
    estimates: Mapping[Case, CostEstimate], batches: Sequence[int], results: Results, series: Sequence[Series]
) -> list[Point]:
    """The points that fit into memory together, the small ones first; the others are written as skipped."""
    free = SHARE * psutil.virtual_memory().available
    titles = {case.key: one.title for one in series for case in one.cases}
    used: dict[str, int] = {}
    points = []
    needs = [(estimate.bytes_at(batch), case.key, batch) for case, estimate in estimates.items() for batch in batches]
    classes = {case.key: case.classes for case in estimates}
    for need, key, batch in sorted(needs):
        if sum(used.values()) - used.get(key, 0) + need <= free:
            used[key] = need
            points.append(Point(key, batch))
        else:
            why = f"batch {batch} needs about {need / 2**30:.1f} GiB beside the others, {free / 2**30:.1f} GiB are free"
            results.add_skipped(SkippedPoint(titles.get(key, key), classes[key], why))
    return sorted(points)
