"""Runs become models in a repository: plan, build, compare with torch, write."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlclip.checkpoint import Run
from mlclip.encoders.clip import Encoder
from mlclip.errors import ExportError
from mlclip_export.build import Workshop, build_graphs
from mlclip_export.facts import read_facts
from mlclip_export.gpu_variants import Variant
from mlclip_export.layout import Layout
from mlclip_export.options import Accelerator, ExportOptions, Precision
from mlclip_export.parity import CheckedGraph, Difference
from mlclip_export.plan import check_replacements, earlier_graphs, plan_encoders
from mlclip_export.reduce import Reduction
from mlclip_export.repository import Written, locked, remove_models, write_models
from mlclip_export.tensorrt import require_tensorrt

_log = logging.getLogger(__name__)
_DEFAULTS: dict[Accelerator, Variant] = {"none": "cpu", "cuda": "cuda", "tensorrt": "tensorrt"}


@dataclass(frozen=True)
class Report:
    """What an export did.

    Attributes:
        differences: largest deviation of each exported graph from torch, per output.
        models: the models of this export, changed or not.
        removed: models of an earlier export that are no longer needed.
    """

    differences: tuple[Difference, ...]
    models: tuple[Written, ...]
    removed: tuple[str, ...]


def export_runs(
    runs: Mapping[str, Run],
    repository: Path,
    options: ExportOptions = ExportOptions(),  # noqa: B008  (frozen)
    *,
    encoders: Sequence[Encoder] = (),
    reduce: Reduction | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Report:
    """Add trained heads to a model repository, or update them there.

    Heads that are in the repository already stay, and combined ensembles name all heads of their encoder. Nothing
    is written until every graph has passed, or while another export writes.

    Args:
        runs: name in the repository to run.
        repository: its folder; made if it does not exist.
        options: how to export.
        encoders: loaded encoders; others are loaded from the runs' references.
        reduce: gives the encoders another precision than float32, after its gate.
        on_step: called with each step: a model's name while it is built, then the comparisons, then the repository.

    Raises:
        ExportError: a name cannot be used, encoders contradict each other, a graph cannot be built or differs from
            torch, TensorRT is missing, or the repository cannot be read or written.
        CheckpointError: a label holds a newline, or an encoder has other weights than in training.
        EncoderError: an encoder cannot be loaded.
    """
    tensorrt = require_tensorrt() if options.format == "tensorrt" else ""
    default: Variant = "plan" if options.format == "tensorrt" else _DEFAULTS[options.accelerator]
    plans, before = plan_encoders(runs), read_facts(repository)
    precision: Precision = reduce.options.precision if reduce else "fp32"
    check_replacements(plans, runs, before, precision)
    with _scratch_folder() as scratch:
        earlier = {} if reduce else earlier_graphs(repository, before)
        workshop = Workshop(scratch, options.configs.max_batch, earlier, on_step, precision, reduce)
        built = [build_graphs(plan.load(encoders), plan.runs, workshop) for plan in plans]
        graphs = []
        for graph in (graph for part in built for graph in part.graphs):
            on_step(f"comparison of {graph.model}")
            graphs.append(CheckedGraph(graph, options.tolerance))
        on_step("the repository")
        with locked(repository):
            before = read_facts(repository)  # another export may have written since
            for problem in before.unreadable:
                _log.warning("%s: it stays as it is, and no model is removed", problem)
            check_replacements(plans, runs, before, precision)
            heads = [head for part in built for head in part.heads]
            facts = before.updated([part.encoder for part in built], heads)
            by_model = {graph.model: graph for graph in graphs}
            runs = dict(runs) | {name: run for part in built for name, run in part.runs.items()}
            models = Layout(facts, runs, by_model, options.configs, default, tensorrt).models()
            written = write_models(repository, models)
            needed = facts.graph_models | {model.name for model in models}
            removed = [] if before.unreadable else remove_models(repository, needed)
    return Report(tuple(found for graph in graphs for found in graph.differences), tuple(written), tuple(removed))


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    try:
        with tempfile.TemporaryDirectory(prefix="mlclip-export-") as folder:
            yield Path(folder)
    except OSError as error:
        reason = error.strerror or error
        raise ExportError(f"cannot write graphs into the temporary folder, which TMPDIR names: {reason}") from error
