"""The whole pipeline: train two heads, export them, serve them with Triton, classify the demo's test images.

Run by `make demo`. It leaves `runs/` and `model_repository/` where the commands' defaults look for them, and writes
`demo/labels.parquet` and `demo/predictions.png`.
"""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer
from mlclip_export import export_runs
from mlclip_serve import ServeError, Server
from rich.table import Table
from sheet import draw_sheet

from mlclip import FeatureCache, Recipe, load_encoder, read_dataset, save_run, train_run
from mlclip.checkpoint import load_run
from mlclip.console import console, metrics_table, progress, run_app
from mlclip.data import Dataset
from mlclip.encoders import DEFAULT_CACHE
from mlclip.errors import MlclipError
from mlclip.metrics import evaluate

DEMO = Path(__file__).parent
DATA = DEMO / "data" / "manifest.jsonl"
HEADS = ("sigmoid", "mld")
RUNS, REPOSITORY = Path("runs"), Path("model_repository")
LABELS, SHEET = DEMO / "labels.parquet", DEMO / "predictions.png"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def demo(
    encoder: Annotated[
        str, typer.Option(help="An open_clip model, mlclip-lite, or an encoder folder.")
    ] = "mlclip-lite",
    pretrained: Annotated[str | None, typer.Option(help="Tag or file of its weights.")] = None,
) -> None:
    """Train, export, serve and classify."""
    dataset = read_dataset(DATA)
    test = dataset.split("test")
    train(dataset, encoder, pretrained)
    step("Export: torch to ONNX, compared, into a Triton model repository")
    report = export_runs({name: load_run(RUNS / name) for name in HEADS}, REPOSITORY)
    worst = max(report.differences, key=lambda difference: difference.value)
    console.print(f"  {len(report.models)} models; onnxruntime and torch differ by at most {worst.value:.1g}")
    step("Serve: starting Triton on this machine")
    try:
        with Server(REPOSITORY) as server:
            console.print(f"  Triton answers at {server.grpc_url}: {', '.join(server.ensembles)}", highlight=False)
            step(f"Classify: {len(test)} test images over gRPC")
            classify(server.grpc_url, [item.path for item in test.items])
    except ServeError as error:
        raise MlclipError(str(error)) from error
    rows = pq.read_table(LABELS).to_pylist()
    show_labels(test, rows)
    show_metrics(test, rows)
    draw_sheet(test.items, [row["answers"]["mld"] for row in rows], SHEET)
    step("Done")
    console.print(CLOSING, highlight=False, markup=False, soft_wrap=True)


def train(dataset: Dataset, encoder_name: str, pretrained: str | None) -> None:
    """Train each head on the same cached features and write its run folder."""
    encoder = load_encoder(encoder_name, pretrained)
    cache = FeatureCache(encoder, DEFAULT_CACHE)
    for name in HEADS:
        step(f"Train: {name} on frozen {encoder.tag}")
        with progress("encoding images") as on_features:
            run = train_run(dataset, encoder, cache, Recipe(name), on_features=on_features)
        run.training["data"] = [str(DATA)]
        save_run(RUNS / name, run)
        figures = run.metrics["val"]
        console.print(
            f"  {run.training['epochs_run']} epochs; validation mAP {figures['mean_average_precision']:.3f}, "
            f"micro F1 {figures['micro']['f1']:.3f}; wrote {RUNS / name}",
            highlight=False,
        )


def classify(url: str, paths: list[Path]) -> None:
    """Run the client as a crawler would; both heads are answered from one encoder pass."""
    heads = [word for name in HEADS for word in ("--head", name)]
    command = [sys.executable, "-m", "mlclip_client", "classify", *map(str, paths), *heads]
    done = subprocess.run([*command, "--scores", "--url", url, "--out", str(LABELS)], check=False)
    if done.returncode:
        raise MlclipError(f"mlclip-client ended with exit code {done.returncode}; see its message above")


def show_labels(test: Dataset, rows: list[dict[str, Any]], count: int = 12) -> None:
    """Print some images with their true labels and those of both heads."""
    table = Table("image", "labels typed by people", *(f"{name} suggests" for name in HEADS))
    for n in np.linspace(0, len(rows) - 1, count).astype(int):
        suggested = ("\n".join(scored(rows[n]["answers"][name])) for name in HEADS)
        table.add_row(test.items[n].path.name, ", ".join(test.items[n].labels), *suggested)
    console.print(table)


def scored(answer: dict[str, Any]) -> list[str]:
    """Selected labels with their scores; of an image without any, the best label in brackets."""
    chosen = [f"{name} {score:.2f}" for name, score in zip(answer["labels"], answer["scores"], strict=True)]
    return chosen or [f"({answer['top_labels'][0]} {answer['top_scores'][0]:.2f})"]


def show_metrics(test: Dataset, rows: list[dict[str, Any]]) -> None:
    """Print the test figures, computed from the scores that the server gave."""
    columns = {}
    for name in HEADS:
        run = load_run(RUNS / name)
        scores = np.array([row["answers"][name]["all_scores"] for row in rows], dtype=np.float32)
        columns[f"{name}, test"] = evaluate(test.targets(), scores, run.thresholds, classes=run.labels).to_dict()
    console.print(metrics_table(columns))


def step(title: str) -> None:
    """Print a headline."""
    console.print(f"\n[bold]{title}[/]", markup=True)


CLOSING = f"""\
  demo/{LABELS.name}     every test image with its labels and scores
  demo/{SHEET.name}  some of them as a picture

Now with your own images (first: source .venv/bin/activate):
  mlclip-serve &                                        serve what was just trained
  mlclip-client classify FOLDER --head mld --out -      label a folder of images
  mlclip data read FOLDER --labels labels.csv --out own.jsonl
  mlclip train --data own.jsonl --head mld              train on your own labels
  mlclip eval runs/mld
  mlclip-export --head mld                              put it into model_repository/
"""

if __name__ == "__main__":
    run_app(app)
