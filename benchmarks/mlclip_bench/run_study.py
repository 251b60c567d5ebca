"""Train and measure every variant of a study with several seeds; store one raw line a run.

    python -m mlclip_bench.run_study heads --data manifest.jsonl --top 46 --out benchmarks/results/openclip-top46

A study that was stopped goes on where it was: lines that are there are not measured again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from mlclip import FeatureCache, load_encoder, read_dataset, train_run
from mlclip.console import console, run_app
from mlclip.data import Dataset
from mlclip.errors import DataError
from mlclip.features import DEFAULT_CACHE
from mlclip.fit import Recipe, evaluate_run
from mlclip.metrics import evaluate
from mlclip.train import DEFAULTS
from mlclip_bench.pixel_floor import pixel_scores
from mlclip_bench.provenance import provenance
from mlclip_bench.report_study import write_report
from mlclip_bench.studies import STUDIES

FLOOR = "pixel nearest neighbours"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A name in STUDIES.")],
    data: Annotated[list[str], typer.Option("--data", help="Prepared data with splits.")],
    out: Annotated[Path, typer.Option(help="Folder for results.jsonl and report.md.")],
    top: Annotated[int | None, typer.Option(help="Keep only the N most frequent training labels.")] = None,
    encoder: Annotated[str, typer.Option()] = "mlclip-tiny",
    pretrained: Annotated[str | None, typer.Option()] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
    cache: Annotated[Path, typer.Option(help="Folder of the features cache.")] = DEFAULT_CACHE,
) -> None:
    """Measure what is not yet measured, then derive the report."""
    if study not in STUDIES:
        raise DataError(f"unknown study {study!r}: choose one of {', '.join(STUDIES)}")
    dataset = read_dataset(*data)
    if top is not None:
        dataset = dataset.with_classes(dataset.top(top))  # images without such a label stay, as negatives
    store = FeatureCache(load_encoder(encoder, pretrained), cache)
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.jsonl"
    done = {(line["variant"], line["seed"]) for line in read_results(results)}
    setting = {"study": study, "data": _data_facts(dataset), "encoder": store.encoder.tag}
    with results.open("a") as file:
        for name, seed, recipe in _runs(study, seeds):
            if (name, seed) not in done:
                line = _measure_floor(dataset) if recipe is None else _measure(dataset, store, recipe, seed)
                line = {"variant": name, "seed": seed, **setting, **line, **provenance()}
                file.write(json.dumps(line) + "\n")
                file.flush()
                console.print(f"{name}, seed {seed}: test mAP {line['test']['mean_average_precision']:.4f}")
    write_report(out)
    console.print(f"wrote {out / 'report.md'}")


def read_results(path: Path) -> list[dict[str, Any]]:
    """The raw lines of a study; none where it has not begun."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _runs(study: str, seeds: int) -> Iterator[tuple[str, int, Recipe | None]]:
    """Variants in turn within each seed, so that a stopped study is balanced; the floor has no seed."""
    yield FLOOR, 0, None
    for seed in range(seeds):
        for name, recipe in STUDIES[study].items():
            yield name, seed, recipe


def _measure(dataset: Dataset, store: FeatureCache, recipe: Recipe, seed: int) -> dict[str, Any]:
    training = replace(recipe.training or DEFAULTS[recipe.head], seed=seed)
    started = time.process_time()
    trained = train_run(dataset, store.encoder, store, replace(recipe, training=training))
    seconds = time.process_time() - started
    return {
        "recipe": {"head": recipe.head, "options": dict(recipe.options), "training": asdict(training)},
        "cpu_seconds": round(seconds, 1),
        "epochs": trained.training["epochs_run"],
        "val": _figures(trained.metrics["val"]),
        "test": _figures(evaluate_run(trained, dataset, store).to_dict()),
    }


def _measure_floor(dataset: Dataset) -> dict[str, Any]:
    test = dataset.split("test")
    scores = pixel_scores(dataset.split("train"), test)
    return {"test": _figures(evaluate(test.targets(), scores, classes=dataset.classes).to_dict())}


def _figures(metrics: dict[str, Any]) -> dict[str, Any]:
    per_class = {row["label"]: row["average_precision"] for row in metrics["per_class"]}
    return {key: value for key, value in metrics.items() if key != "per_class"} | {"average_precision": per_class}


def _data_facts(dataset: Dataset) -> dict[str, Any]:
    return {"images": dataset.split_counts, "classes": len(dataset.classes)}


if __name__ == "__main__":
    run_app(app)
