"""`mlclip eval`: figures of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from mlclip.cli.options import CacheOption, RunArgument, RunDataOption, run_data
from mlclip.console import console, metrics_table, progress, say
from mlclip.encoders.features import DEFAULT_CACHE


def evaluate(
    run: RunArgument,
    data: RunDataOption = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    per_class: Annotated[bool, typer.Option("--per-class", help="Also print the metrics of each class.")] = False,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Compute the metrics of a run on a split, print them, and store them in the run's metrics.json."""
    from mlclip.checkpoint import load_run, write_json
    from mlclip.console import class_table
    from mlclip.encoders.features import FeatureCache
    from mlclip.training.runs import evaluate_run

    loaded = load_run(run)
    dataset = run_data(loaded.training, data)
    store = FeatureCache(loaded.encoder.load(), cache)
    with progress("encoding images") as on_features:
        metrics = evaluate_run(loaded, dataset, store, split, on_features=on_features)
    write_json(run / "metrics.json", loaded.metrics | {split: metrics.to_dict()})
    console.print(metrics_table({f"{run.name}, {split}": metrics.to_dict()}))
    if per_class:
        console.print(class_table(metrics.to_dict()))
    for line in loaded.head.caveats(dataset.with_classes(loaded.labels).split(split).targets(), split):
        say(line)
    console.print(f"stored in {run / 'metrics.json'}")
