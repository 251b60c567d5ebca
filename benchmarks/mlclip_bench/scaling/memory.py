"""Which points fit into memory together, as all graphs of a run are loaded at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psutil

from mlclip_bench.scaling.build import CostEstimate
from mlclip_bench.scaling.cases import Case, Series, SkippedPoint
from mlclip_bench.scaling.results import Results
from mlclip_bench.scaling.rounds import Point

SHARE = 0.8  # of the memory that is free when the run starts, for all graphs together


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
