"""One process a graph, all loaded at once, so that they can take turns within seconds of each other."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlclip.errors import ResultsError
from mlclip_bench.scaling.rounds import Point

_PROGRAM = "mlclip_bench.scaling.worker"


class Worker:
    """A process that runs one graph.

    Args:
        name: of the case, for messages.
        file: the ONNX file.
        threads: of onnxruntime.

    Attributes:
        loaded: `load_seconds` and `loaded_bytes`.

    Raises:
        ResultsError: onnxruntime cannot load the graph, or the process died.
    """

    def __init__(self, name: str, file: Path, threads: int) -> None:
        self.name = name
        command = [sys.executable, "-m", _PROGRAM]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.loaded: dict[str, float] = self._ask(file=str(file), threads=threads)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def run(self, batch: int, seconds: float) -> list[float]:
        """Time calls of one batch size for some seconds, at least one call; seconds a call."""
        times: list[float] = self._ask(batch=batch, seconds=seconds)["seconds"]
        return times

    def peaks(self, batches: Sequence[int]) -> dict[int, int]:
        """Run each batch size, the small ones first: highest resident memory by batch, in bytes."""
        return {batch: int(self._ask(batch=batch, seconds=0)["peak_bytes"]) for batch in sorted(batches)}

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # what it had not read yet
                    pipe.close()

    def _ask(self, **line: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
            answered = self._process.stdout.readline()
        except BrokenPipeError:
            answered = ""
        if not answered:
            code = self._process.wait()
            cause = f"signal {-code}, out of memory?" if code < 0 else f"exit code {code}"
            raise ResultsError(f"the process that ran {self.name} ended ({cause}); --resume goes on with the others")
        answer: dict[str, Any] = json.loads(answered)
        if "error" in answer:
            raise ResultsError(f"onnxruntime cannot run {self.name}: {answer['error']}")
        return answer


class Pool:
    """The workers of a run, by case; use it with `with`.

    Args:
        files: ONNX files by case.
        threads: of each worker.
    """

    def __init__(self, files: Mapping[str, Path], threads: int) -> None:
        self.files, self.threads = files, threads
        self.workers: dict[str, Worker] = {}

    def load(self, name: str) -> Worker:
        """Start the worker of a case."""
        self.workers[name] = Worker(name, self.files[name], self.threads)
        return self.workers[name]

    def measure(self, point: Point, seconds: float) -> list[float]:
        """Time one point."""
        return self.workers[point.case].run(point.batch, seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers.values():
            worker.close()
