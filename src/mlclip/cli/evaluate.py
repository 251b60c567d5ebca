"""`mlclip eval`: figures of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mlclip.cli.options import CacheOption, RunArgument, RunDataOption, run_data
from mlclip.console import console, metrics_table, progress
from mlclip.encoders.features import DEFAULT_CACHE

if TYPE_CHECKING:
    from mlclip.checkpoint import Run
    from mlclip.data import Dataset


def evaluate(
    run: RunArgument,
    data: RunDataOption = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    per_class: Annotated[bool, typer.Option("--per-class", help="Print a line a class, too.")] = False,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Measure a run on a split; print the figures and store them in its metrics.json."""
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
    for line in unseen_sets(loaded, dataset, split):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"stored in {run / 'metrics.json'}")


def unseen_sets(run: Run, dataset: Dataset, split: str) -> list[str]:
    """What a run of label sets cannot get wholly right, in a line; nothing for other heads."""
    from mlclip.heads.powerset import PowersetHead

    if not isinstance(run.head, PowersetHead):
        return []
    targets = dataset.with_classes(run.labels).split(split).targets()
    unseen, sets = run.head.unseen(targets), len({row.tobytes() for row in targets})
    return [
        f"{unseen.sets:,} of the {sets:,} label sets of {split} were not in training, "
        f"on {unseen.images:,} of {len(targets):,} images: this head cannot get those wholly right"
    ]
