"""The command line `mlclip`: a thin caller of the library."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mlclip.console import console, epoch_line, metrics_table, progress, run_app
from mlclip.data import Dataset, prepare, read_dataset, write_manifest
from mlclip.encoders import DEFAULT_ENCODER, MODELS
from mlclip.errors import DataError, TrainError
from mlclip.features import DEFAULT_CACHE

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Few-shot multi-label image classification on frozen CLIP.",
)

DataOption = Annotated[
    list[str], typer.Option("--data", help="Manifest, folder or COCO JSON; may be given several times.")
]
TopOption = Annotated[int | None, typer.Option(help="Keep only the N most frequent training labels.")]
EncoderOption = Annotated[str, typer.Option(help="An open_clip model, mlclip-tiny, or an encoder folder.")]
PretrainedOption = Annotated[str | None, typer.Option(help="Tag or file of the encoder's weights, or `random`.")]
CacheOption = Annotated[Path, typer.Option(help="Folder of the features cache.")]
RunArgument = Annotated[Path, typer.Argument(help="A run folder, as `mlclip train` writes it.")]
RunDataOption = Annotated[
    list[str] | None, typer.Option("--data", help="Data to use; by default what the run was trained on.")
]
ModeOption = Annotated[str, typer.Option("--thresholds", help="`per_class` or `global`.")]
BetaOption = Annotated[float, typer.Option(help="Thresholds maximise F-beta; 2 favours recall.")]


@app.command()
def data(
    sources: Annotated[list[str], typer.Argument(help="Folder, manifest or COCO JSON; `val=PATH` sets a split.")],
    out: Annotated[Path, typer.Option(help="Manifest to write: .jsonl, .csv or .parquet.")] = Path("manifest.jsonl"),
    labels: Annotated[Path | None, typer.Option(help="Labels file of a folder: path, labels.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder that image paths start from.")] = None,
    classes: Annotated[Path | None, typer.Option(help="File with the allowed classes, one a line.")] = None,
    separator: Annotated[str, typer.Option(help="Between labels that come as one string.")] = "|",
    top: TopOption = None,
    min_count: Annotated[int, typer.Option(help="Leave out labels with fewer training images.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the 60/20/20 split.")] = 0,
) -> None:
    """Read, check and split labelled images; write the manifest that training starts from."""
    with progress("checking images") as on_progress:
        prepared = prepare(
            *sources, labels=labels, images=images, classes=classes, separator=separator, seed=seed,
            min_count=min_count, on_progress=on_progress,
        )  # fmt: skip
    dataset = prepared.dataset
    if top is not None:
        dataset = dataset.with_classes(dataset.top(top)).labelled()
    write_manifest(dataset, out)
    for line in prepared.lines():
        console.print(line, highlight=False, markup=False)
    kept = f" ({len(dataset):,} images with the {top} most frequent labels)" if top else ""
    console.print(f"wrote {out}{kept}")
    if prepared.rejected:
        raise typer.Exit(3)


@app.command()
def features(
    data: DataOption,
    encoder: EncoderOption = DEFAULT_ENCODER,
    pretrained: PretrainedOption = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Store tokens too: what `mld` reads.")] = False,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Fill the features cache, so that any number of trainings can start at once."""
    paths = [item.path for item in read_dataset(*data).items]
    store = _cache(encoder, pretrained, cache)
    for kind in ("embedding", *(["tokens"] if tokens else [])):
        with progress(f"encoding: {kind}") as on_progress:
            store.rows(paths, kind, on_progress=on_progress)
    console.print(f"{len(paths):,} images are in {store.folder}")


@app.command()
def pretrain(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Encoder folder to write.")],
    architecture: Annotated[Path, typer.Option(help="open_clip_config.json of the model.")] = MODELS
    / DEFAULT_ENCODER
    / "open_clip_config.json",
    epochs: Annotated[int, typer.Option(help="Passes over the pictures.")] = 50,
    batch_size: Annotated[int, typer.Option(help="Pictures a step.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and captions.")] = 0,
) -> None:
    """Pre-train a small CLIP on captioned pictures (titles and labels of the `train` split)."""
    from mlclip.pretrain import Picture, PretrainConfig, new_model, pretrain, save

    items = read_dataset(*data).split("train").items
    pictures = [Picture(item.path, item.text or "", item.labels) for item in items if item.text or item.labels]
    model, tokenizer = new_model(architecture, seed)
    console.print(f"{len(pictures):,} pictures, {epochs} epochs")
    config = PretrainConfig(epochs=epochs, batch_size=batch_size, seed=seed)
    pretrain(
        model, pictures, tokenizer, config,
        on_epoch=lambda epoch, loss: console.print(f"epoch {epoch}: loss {loss:.3f}"),
    )  # fmt: skip
    save(model, json.loads(architecture.read_text()), out)
    console.print(f"wrote {out}")


@app.command()
def train(
    data: DataOption,
    head: Annotated[str, typer.Option(help="sigmoid or mld.")] = "mld",
    encoder: EncoderOption = DEFAULT_ENCODER,
    pretrained: PretrainedOption = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to write; by default runs/HEAD.")] = None,
    top: TopOption = None,
    loss: Annotated[str | None, typer.Option(help="bce, focal, asl or apl.")] = None,
    loss_option: Annotated[list[str] | None, typer.Option(help="Such as gamma_neg=3; repeatable.")] = None,
    lr: Annotated[float | None, typer.Option(help="Adam's learning rate.")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many passes.")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without a better validation mAP.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    alignment_weight: Annotated[float | None, typer.Option(help="mld: weight of the alignment loss.")] = None,
    groups: Annotated[int | None, typer.Option(help="mld: group queries K.")] = None,
    layers: Annotated[int | None, typer.Option(help="mld: decoder layers.")] = None,
    attention_heads: Annotated[int | None, typer.Option(help="mld: attention heads.")] = None,
    dropout: Annotated[float | None, typer.Option(help="mld: dropout in the feed-forward layers.")] = None,
    queries: Annotated[str | None, typer.Option(help="mld: learned, fixed or text.")] = None,
    memory: Annotated[str | None, typer.Option(help="mld: tokens or pooled.")] = None,
    readout: Annotated[str | None, typer.Option(help="mld: groups or mean.")] = None,
    scale: Annotated[float | None, typer.Option(help="sigmoid: factor on the embedding; 1 is the paper's.")] = None,
    thresholds: ModeOption = "per_class",
    beta: BetaOption = 1.0,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and dropout.")] = None,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Train a head on a frozen encoder and choose its thresholds; write a run folder."""
    from dataclasses import replace

    from mlclip.checkpoint import save_run
    from mlclip.fit import Recipe, train_run
    from mlclip.train import DEFAULTS

    if head not in DEFAULTS:
        raise TrainError(f"unknown head {head!r}: choose one of {', '.join(DEFAULTS)}")
    settings = _given(lr=lr, epochs=epochs, patience=patience, batch_size=batch_size, loss=loss, seed=seed,
                      alignment_weight=alignment_weight, loss_options=_numbers(loss_option))  # fmt: skip
    options = _given(groups=groups, layers=layers, attention_heads=attention_heads, dropout=dropout, queries=queries,
                     memory=memory, readout=readout, scale=scale)  # fmt: skip
    try:
        training = replace(DEFAULTS[head], **settings)
    except ValueError as error:
        raise TrainError(str(error)) from error
    dataset = _dataset(data, top)
    store = _cache(encoder, pretrained, cache)
    with progress("encoding images") as on_features:
        run = train_run(
            dataset, store.encoder, store, Recipe(head, options, training, _threshold_config(thresholds, beta)),
            on_features=on_features, on_epoch=lambda epoch: console.print(epoch_line(epoch)),
        )  # fmt: skip
    folder = out or Path("runs") / head
    save_run(folder, replace(run, training=run.training | {"data": [str(Path(d)) for d in data], "top": top}))
    console.print(metrics_table({f"{head}, val": run.metrics["val"]}))
    console.print(f"wrote {folder}")


@app.command()
def tune(
    run: RunArgument,
    data: RunDataOption = None,
    thresholds: ModeOption = "per_class",
    beta: BetaOption = 1.0,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Choose a run's thresholds anew on the validation split."""
    from mlclip.checkpoint import load_run, save_run
    from mlclip.features import FeatureCache
    from mlclip.fit import retune_run

    loaded = load_run(run)
    dataset = _run_data(loaded.training, data)
    store = FeatureCache(loaded.encoder.load(), cache)
    tuned = retune_run(loaded, dataset, store, _threshold_config(thresholds, beta))
    save_run(run, tuned)
    console.print(metrics_table({f"{run.name}, val": tuned.metrics["val"]}))


@app.command("eval")
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
    from mlclip.features import FeatureCache
    from mlclip.fit import evaluate_run

    loaded = load_run(run)
    store = FeatureCache(loaded.encoder.load(), cache)
    with progress("encoding images") as on_features:
        metrics = evaluate_run(loaded, _run_data(loaded.training, data), store, split, on_features=on_features)
    write_json(run / "metrics.json", loaded.metrics | {split: metrics.to_dict()})
    console.print(metrics_table({f"{run.name}, {split}": metrics.to_dict()}))
    if per_class:
        console.print(class_table(metrics.to_dict()))
    console.print(f"stored in {run / 'metrics.json'}")


@app.command()
def encoders() -> None:
    """List the encoders that can be named with --encoder."""
    import open_clip

    for name in (DEFAULT_ENCODER, *open_clip.list_models()):
        tags = open_clip.list_pretrained_tags_by_model(name)
        console.print(f"{name}  {' '.join(tags) if tags else ''}".rstrip(), highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point: one line for an error, exit code 1; `--debug` shows the traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mlclip").setLevel(logging.INFO)
    logging.getLogger().addFilter(lambda record: True)
    run_app(app)


def _dataset(sources: list[str], top: int | None) -> Dataset:
    dataset = read_dataset(*sources)
    return dataset if top is None else dataset.with_classes(dataset.top(top))


def _run_data(training: dict[str, Any], data: list[str] | None) -> Dataset:
    sources = data or training.get("data")
    if not sources:
        raise DataError("this run does not say what it was trained on: name the data with --data")
    return read_dataset(*sources)


def _cache(encoder: str, pretrained: str | None, folder: Path) -> Any:
    from mlclip.encoders import load_encoder
    from mlclip.features import FeatureCache

    return FeatureCache(load_encoder(encoder, pretrained), folder)


def _threshold_config(mode: str, beta: float) -> Any:
    from mlclip.fit import ThresholdConfig
    from mlclip.thresholds import MODES

    if mode not in MODES or beta <= 0:
        raise TrainError(f"--thresholds is one of {', '.join(MODES)} and --beta above 0, not {mode} and {beta:g}")
    return ThresholdConfig(mode=mode, beta=beta)  # type: ignore[arg-type]


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _numbers(options: list[str] | None) -> dict[str, float] | None:
    try:
        return (
            {name: float(value) for name, _, value in (option.partition("=") for option in options)}
            if options
            else None
        )
    except ValueError as error:
        raise TrainError(f"--loss-option wants name=number, such as gamma_neg=3: {error}") from error
