"""Graphs that were compared with torch; only these can be written to a repository."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlclip.errors import ExportError
from mlclip_export.parity import Difference, refuse_if_apart


@dataclass(frozen=True)
class Graph:
    """A model's ONNX file, or the files of its Python model, before the comparison with torch."""

    model: str  # its name in the repository
    folder: Path  # holds its files and nothing else
    compare: Callable[[], list[Difference]]  # measures the largest deviation of each output from torch
    # writes the files again; None unless they are copies from an earlier export
    rebuild: Callable[[], None] | None = None
    parameters: Mapping[str, str] | None = None  # settings for the config of a Python model; None for an ONNX file


class CheckedGraph:
    """A graph that computes what torch computes. Creating one is the comparison, so no other kind exists.

    `differences` has one per output; `files`, name to path, go into the version's folder. The rest is as in `Graph`.
    """

    def __init__(self, graph: Graph, tolerance: float) -> None:
        """Compare a graph with torch; raises ExportError if an output differs by more than `tolerance`.

        A copy from an earlier export that fails is rebuilt and compared again.
        """
        self.model, self.parameters = graph.model, graph.parameters
        try:
            self.differences = _compare(graph, tolerance)
        except ExportError:
            if graph.rebuild is None:
                raise
            graph.rebuild()
            self.differences = _compare(graph, tolerance)
        self.files = {path.name: path for path in sorted(graph.folder.iterdir())}


def _compare(graph: Graph, tolerance: float) -> list[Difference]:
    differences = graph.compare()
    refuse_if_apart(differences, tolerance)
    return differences
