"""`mlclip data ...`: from labelled images in any form to the manifest that training starts from."""

from pathlib import Path
from typing import Annotated

import typer
from mlclip_client.files import is_stream
from rich import box
from rich.table import Table

from mlclip.cli.options import (
    CacheOption,
    DataOption,
    EncoderOption,
    PretrainedOption,
    TopOption,
    check_manifest,
    feature_cache,
)
from mlclip.cli.options import dataset as read_top
from mlclip.console import console, progress, say
from mlclip.encoders import DEFAULT_CACHE, DEFAULT_ENCODER
from mlclip.errors import DataError
from mlclip.settings import check_number, check_seed

app = typer.Typer(no_args_is_help=True, help="Read, check, prepare and audit labelled images.")


@app.command()
def read(
    sources: Annotated[list[str], typer.Argument(help="Folder, manifest or COCO JSON; `val=PATH` sets a split.")],
    out: Annotated[Path, typer.Option(help="Manifest to write, JSON lines.")] = Path("manifest.jsonl"),
    labels: Annotated[
        Path | None, typer.Option(help="Labels file of a folder, with the columns path and labels.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder that image paths start from.")] = None,
    classes: Annotated[Path | None, typer.Option(help="File with the allowed classes, one per line.")] = None,
    separator: Annotated[str, typer.Option(help="Separator between labels in one string.")] = "|",
    top: TopOption = None,
    min_count: Annotated[int, typer.Option(help="Leave out labels with fewer training images than this.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the 60/20/20 split.")] = 0,
) -> None:
    """Read, check and split labelled images, and write a manifest for training.

    Images without a label are left out. With --top, images that lose all their labels stay: training takes them as
    pictures on which nothing is to be found.

    Exit code: 0 no image was refused, 1 nothing was written, 3 images with errors were refused.
    """
    from mlclip.data import admit, write_manifest

    check_seed(seed)
    check_manifest(out, *sources, labels, classes)
    with progress("checking images") as on_progress:
        admitted = admit(
            *sources, labels=labels, images=images, classes=classes, separator=separator, seed=seed,
            min_count=min_count, on_progress=on_progress,
        )  # fmt: skip
    dataset = admitted.dataset
    if top is not None:
        dataset = dataset.with_classes(dataset.top(top))
    write_manifest(dataset, out)
    _print(admitted.lines())
    kept = f" ({len(dataset):,} images with the {len(dataset.classes):,} most frequent labels)" if top else ""
    say(f"wrote {out}{kept}")
    if admitted.rejected:
        raise typer.Exit(3)


@app.command("prepare")
def prepare_data(
    data: DataOption,
    out: Annotated[
        Path, typer.Option(help="Manifest to write; a log of all changes goes beside it, as .changes.jsonl.")
    ] = Path("prepared.jsonl"),
    duplicates: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Lowest cosine similarity of suspected and of certain duplicates; default: from --pairs or groups."
        ),
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="CSV file of judged pairs, from `mlclip data pairs`.")] = None,
    stratify: Annotated[
        str,
        typer.Option(
            help="What new splits balance: each label (`labels`) or ten quantiles of similarity (`similarity`)."
        ),
    ] = "similarity",
    min_count: Annotated[
        int, typer.Option(help="Drop labels with fewer training images than this; Bynke 2022 uses 50.")
    ] = 5,
    resplit: Annotated[
        bool, typer.Option("--resplit", help="Draw new splits instead of keeping those of the data.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the 60/20/20 split.")] = 0,
    block: Annotated[
        int, typer.Option(min=1, help="Number of images compared at once; fewer need less memory.")
    ] = 2048,
    encoder: EncoderOption = DEFAULT_ENCODER,
    pretrained: PretrainedOption = None,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Drop near-duplicates, rare labels and images without a label, and split the rest, as in Bynke 2022, 3.1.2."""
    from mlclip.data import Points, Preparation, prepare, read_dataset, write_changes, write_manifest
    from mlclip.data.duplicate_pairs import points_from_pairs

    if stratify not in ("similarity", "labels"):
        raise DataError(f"--stratify is similarity or labels, not {stratify}")
    if duplicates and pairs:
        raise DataError("give the thresholds or the pairs to compute them from: --duplicates or --pairs")
    check_seed(seed)
    for similarity in duplicates or ():
        check_number("a threshold of --duplicates", similarity)
    log = None if is_stream(out) else out.with_suffix(".changes.jsonl")  # nothing may appear beside a device
    for written in filter(None, (out, log)):
        check_manifest(written, *data, pairs)
    dataset = read_dataset(*data)
    store = feature_cache(encoder, pretrained, cache)
    settings = Preparation(
        stratify="labels" if stratify == "labels" else "similarity",
        min_count=min_count, resplit=resplit, seed=seed, block=block,
    )  # fmt: skip
    with progress("encoding images") as on_progress:
        store.rows([item.path for item in dataset.labelled().items], on_progress=on_progress)
    points = Points(*duplicates) if duplicates else points_from_pairs(pairs, store.rows) if pairs else None
    with progress("comparing images") as on_progress:
        prepared = prepare(dataset, store.rows, points, settings, on_progress)
    write_manifest(prepared.dataset, out)
    wrote = f"wrote {out}"
    if log is not None:
        write_changes(prepared.changes, log)
        wrote += f", and the log of what was dropped and merged, {log}"
    _print([*prepared.lines(), wrote])


@app.command()
def pairs(
    data: DataOption,
    answers: Annotated[Path, typer.Option(help="CSV file of judged pairs; new answers are appended.")] = Path(
        "pairs.csv"
    ),
    ask: Annotated[
        bool, typer.Option("--ask/--no-ask", help="--no-ask prints the thresholds so far and asks nothing.")
    ] = True,
    tolerance: Annotated[
        float, typer.Option(help="Stop asking when neither threshold varied by more than this over 10 answers.")
    ] = 0.002,
    encoder: EncoderOption = DEFAULT_ENCODER,
    pretrained: PretrainedOption = None,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Show pairs of similar images and ask whether they are the same, until the duplicate thresholds are steady."""
    from mlclip.cli.data_pairs import ask_for_pairs
    from mlclip.data import read_dataset
    from mlclip.data.duplicate_pairs import points_from_pairs
    from mlclip.data.similarity import nearest

    check_number("--tolerance", tolerance, 0)
    dataset = read_dataset(*data).labelled()
    store = feature_cache(encoder, pretrained, cache)
    with progress("encoding images") as on_progress:
        rows = store.rows([item.path for item in dataset.items], on_progress=on_progress)
    if ask:
        with progress("comparing images") as on_progress:
            index, best = nearest(rows, on_progress=on_progress)
        ask_for_pairs(dataset, index, best, answers, tolerance)
    points = points_from_pairs(answers, store.rows)
    _print([f"suspected duplicates from {points.suspected:.4f} on, certain ones from {points.certain:.4f} on"])


@app.command()
def stats(data: DataOption, top: TopOption = None) -> None:
    """Count the images of each label in each split, most frequent label first, and the labels of each image."""
    from mlclip.data.statistics import label_counts, statistics

    dataset = read_top(data, top)
    table = Table("label", "images", *dataset.split_counts, box=box.SIMPLE_HEAD)
    for name, counts in label_counts(dataset).items():
        table.add_row(name, *(f"{count:,}" for count in counts.values()))
    console.print(table)
    _print(statistics(dataset))


@app.command()
def shots(
    data: DataOption,
    k: Annotated[int, typer.Option("--k", min=1, help="Approximate number of training images per class.")],
    out: Annotated[Path | None, typer.Option(help="Manifest to write; by default K-shot.jsonl.")] = None,
    top: TopOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
) -> None:
    """Keep about k training images per class, for few-shot studies; val and test stay whole."""
    from mlclip.data import k_shot, write_manifest

    check_seed(seed)
    target = out or Path(f"{k}-shot.jsonl")
    check_manifest(target, *data)
    few = k_shot(read_top(data, top), k, seed)
    write_manifest(few, target)
    _print([f"{len(few):,} images: {few.split_line()}", f"wrote {target}"])


def _print(lines: list[str]) -> None:
    for line in lines:
        say(line)
