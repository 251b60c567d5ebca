"""One process per graph, all loaded at once, so that they can take turns within seconds of each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mlclip.errors import ResultsError
from mlclip_bench.kit.workers import Worker, WorkerError
from mlclip_bench.scaling.rounds import Point

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
