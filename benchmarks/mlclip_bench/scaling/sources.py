"""What is measured, and the source that answers in processes of our own; `triton` has the other one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlclip_export.graphs import FILE

from mlclip.encoders.clip import Encoder
from mlclip.errors import ExportError
from mlclip_bench.scaling.build import CostEstimate, shapes_of
from mlclip_bench.scaling.cases import Case
from mlclip_bench.scaling.graphs import write_graph
from mlclip_bench.scaling.pool import Pool
from mlclip_bench.scaling.results import Raw
from mlclip_bench.scaling.rounds import Point

Measure = Callable[[Point, float], Sequence[float]]


@dataclass(frozen=True)
class Parts:
    """What a source is made of.

    Attributes:
        points: that fit into memory.
        papers: cases, with their costs on paper.
        encoder: that heads stand behind.
        raw: takes a line a graph.
        folder: for graphs.
        on_step: is told what is being done, the steps done and all steps.
    """

    points: Sequence[Point]
    papers: Mapping[Case, CostEstimate]
    encoder: Encoder
    raw: Raw
    folder: Path
    on_step: Callable[[str, int, int], None]

    @property
    def cases(self) -> list[Case]:
        """The cases of the points."""
        keys = {point.case for point in self.points}
        return [case for case in self.papers if case.key in keys]

    @property
    def known(self) -> set[str]:
        """Keys of the cases that have a line."""
        return {line["case"] for line in self.raw.of("graph")}


@contextmanager
def in_process(parts: Parts, threads: int) -> Iterator[tuple[Sequence[Point], Measure]]:
    """Export what is not there yet, and start a process for each graph.

    Args:
        parts: what it is made of.
        threads: of onnxruntime; 0 takes all cores.

    Raises:
        MlclipError: a graph cannot be exported or loaded, or differs from torch.
    """
    parts.folder.mkdir(parents=True, exist_ok=True)
    cases = parts.cases
    with Pool({case.key: parts.folder / case.key / FILE for case in cases}, threads or os.cpu_count() or 1) as pool:
        for number, case in enumerate(cases):
            parts.on_step(f"exporting {case.key}", number, len(cases))
            known, facts = case.key in parts.known, {}
            if not known or not pool.files[case.key].exists():
                facts = _written(case, parts)
            worker = pool.load(case.key)
            if not known:
                parts.on_step(f"warming up {case.key}", number, len(cases))
                peaks = worker.peaks([point.batch for point in parts.points if point.case == case.key])
                parts.raw.append({"kind": "graph", "case": case.key, **facts, **worker.loaded, "peak_bytes": peaks})
        yield parts.points, pool.measure


def _written(case: Case, parts: Parts) -> dict[str, Any]:
    try:
        return write_graph(case, parts.papers[case], shapes_of(parts.encoder), parts.encoder, parts.folder).to_dict()
    except ValueError as error:
        raise ExportError(f"{case.key}: {error}") from error
