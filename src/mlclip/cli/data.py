"""`mlclip data ...`: labelled images, from what people have to a manifest that training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlclip.cli.options import TopOption
from mlclip.console import console, progress
from mlclip.data import prepare, write_manifest

app = typer.Typer(no_args_is_help=True, help="Read, check, prepare and audit labelled images.")


@app.command()
def read(
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
