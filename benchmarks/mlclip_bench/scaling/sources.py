"""What both sources of measurements are made of, and the one that runs graphs in processes of our own."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlclip_export.graphs import FILE

from mlclip.encoders.clip import Encoder
from mlclip.errors import ExportError, ResultsError
from mlclip_bench.kit.progress import Step
from mlclip_bench.kit.workers import Worker, WorkerError
from mlclip_bench.scaling.build import CostEstimate, shapes_of
from mlclip_bench.scaling.cases import Case
from mlclip_bench.scaling.graphs import write_graph
from mlclip_bench.scaling.results import Results
from mlclip_bench.scaling.rounds import Point

Measure = Callable[[Point, float], Sequence[float]]
SCRIPT = Path(__file__).parent / "graph_worker.py"


class Pool(ExitStack):
    """The processes of a run, each with some threads; use it as a context manager.

    All methods raise a ResultsError where onnxruntime cannot load or run a graph, or its process has died.
    """

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.threads = threads
        self.workers: dict[str, Worker] = {}

    def load(self, case: str, file: Path) -> dict[str, Any]:
        """Start the process of a case; gives `load_seconds` and `loaded_bytes`."""
        worker = self.workers[case] = self.enter_context(Worker(SCRIPT))
        with _named(case):
            return worker.load(file=str(file), threads=self.threads)

    def peaks(self, case: str, batches: Sequence[int]) -> dict[int, int]:
        """Run each batch size, the small ones first: highest resident memory by batch, in bytes."""
        with _named(case):
            return {
                batch: int(self.workers[case].run(batch=batch, at_least=0)["peak_bytes"]) for batch in sorted(batches)
            }

    def measure(self, point: Point, seconds: float) -> list[float]:
        """Time calls of one point for some seconds, at least one; seconds per call."""
        with _named(point.case):
            times: list[float] = self.workers[point.case].run(batch=point.batch, at_least=seconds)["seconds"]
            return times


@contextmanager
def _named(case: str) -> Iterator[None]:
    try:
        yield
    except WorkerError as error:
        raise ResultsError(f"the process of {case}: {error}; --resume continues with the others") from error


@dataclass(frozen=True)
class Parts:
    """What a source is made of."""

    points: Sequence[Point]  # those that fit into memory
    estimates: Mapping[Case, CostEstimate]
    encoder: Encoder
    results: Results  # takes a line per graph
    folder: Path  # for graphs
    threads: int  # of onnxruntime; 0 takes all cores, or in a server what `mlclip-export` chooses
    on_step: Step

    @property
    def cases(self) -> list[Case]:
        """The cases of the points."""
        keys = {point.case for point in self.points}
        return [case for case in self.estimates if case.key in keys]

    def pool(self) -> Pool:
        """An empty pool of processes."""
        return Pool(self.threads or os.cpu_count() or 1)

    def known(self) -> set[str]:
        """Keys of the cases that have a line."""
        return {line["case"] for line in self.results.of("graph")}

    def add_graph(self, pool: Pool, case: Case, file: Path, facts: Mapping[str, Any]) -> None:
        """Load a graph, run all its batch sizes, and write what it takes."""
        loaded = pool.load(case.key, file)
        peaks = pool.peaks(case.key, [point.batch for point in self.points if point.case == case.key])
        self.results.append({"kind": "graph", "case": case.key, **facts, **loaded, "peak_bytes": peaks})


@contextmanager
def in_process(parts: Parts) -> Iterator[tuple[Sequence[Point], Measure]]:
    """Export what is missing, and start a process for each graph; gives the points and what measures them."""
    parts.folder.mkdir(parents=True, exist_ok=True)
    cases, known = parts.cases, parts.known()
    with parts.pool() as pool:
        for number, case in enumerate(cases):
            parts.on_step(f"exporting {case.key}", number, len(cases))
            file = parts.folder / case.key / FILE
            if case.key not in known:
                parts.add_graph(pool, case, file, _written(case, parts))
                continue
            if not file.exists():
                _written(case, parts)
            pool.load(case.key, file)
        yield parts.points, pool.measure


def _written(case: Case, parts: Parts) -> dict[str, Any]:
    try:
        estimate, shapes = parts.estimates[case], shapes_of(parts.encoder)
        return write_graph(case, estimate, shapes, parts.encoder, parts.folder)
    except ValueError as error:
        raise ExportError(f"{case.key}: {error}") from error
