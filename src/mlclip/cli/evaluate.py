"""`mlclip eval`: figures of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlclip.cli.options import CacheOption, RunArgument, RunDataOption, run_data
from mlclip.console import console, metrics_table, progress, say
from mlclip.encoders import DEFAULT_CACHE
from mlclip.errors import CheckpointError

if TYPE_CHECKING:
    from mlclip.checkpoint import Run


def evaluate(
    run: RunArgument,
    data: RunDataOption = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    per_class: Annotated[bool, typer.Option("--per-class", help="Also print the metrics of each class.")] = False,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Compute the metrics of a run on a split, print them, and store them in the run's metrics.json.

    Figures of other data than the run's own are stored there under `other`, by the data's digest.
    """
    from mlclip.checkpoint import load_run, write_json
    from mlclip.console import class_table
    from mlclip.encoders.features import FeatureCache
    from mlclip.training.runs import evaluate_run, figures

    loaded = load_run(run)
    dataset = run_data(loaded.training, data)
    store = FeatureCache(loaded.encoder.load(), cache)
    with progress("encoding images") as on_features:
        metrics = evaluate_run(loaded, dataset, store, split, on_features=on_features)
    known = dataset.with_classes(loaded.labels)
    found = figures(metrics, known)
    console.print(metrics_table({f"{run.name}, {split}": found}))
    if per_class:
        console.print(class_table(found))
    for line in loaded.head.caveats(known.split(split).targets(), split):
        say(line)
    try:
        write_json(run / "metrics.json", _stored(loaded, split, found, data))
    except OSError as error:
        raise CheckpointError(f"{run / 'metrics.json'}: the figures are not stored: {error.strerror}") from error
    say(f"stored in {run / 'metrics.json'}")


def _stored(run: Run, split: str, found: dict[str, Any], data: list[str] | None) -> dict[str, Any]:
    """A run's metrics with new figures, under the split for the run's own data, otherwise apart."""
    digest = found["data_sha256"]
    if data is None or digest == run.training.get("data_sha256"):
        return run.metrics | {split: found}
    other = run.metrics.get("other", {})
    return run.metrics | {"other": other | {digest: other.get(digest, {}) | {"data": data, split: found}}}
