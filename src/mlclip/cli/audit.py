"""`mlclip data audit`: the labels that trained heads disagree with, and a person's decisions about them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mlclip.cli.options import (
    CacheOption,
    DataOption,
    EncoderOption,
    PretrainedOption,
    TopOption,
    check_head,
    check_manifest,
    feature_cache,
)
from mlclip.console import console, progress, say
from mlclip.encoders import DEFAULT_CACHE, DEFAULT_ENCODER
from mlclip.files import check_output
from mlclip.settings import Recipe, check_number, check_seed

if TYPE_CHECKING:
    from mlclip.data import Dataset


def audit(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="List to write (.csv); with --apply, the manifest (.jsonl).")] = Path(
        "audit.csv"
    ),
    heads: Annotated[
        str, typer.Option(help="Heads that judge the labels, separated by commas; they have default options.")
    ] = ("sigmoid,neighbors"),
    folds: Annotated[int, typer.Option(help="Number of folds; each head is trained once per fold.")] = 5,
    limit: Annotated[int, typer.Option(help="Maximum length of the list.")] = 1000,
    apply: Annotated[
        Path | None, typer.Option(help="List with your decisions; the corrected data is written to --out.")
    ] = None,
    encoder: EncoderOption = DEFAULT_ENCODER,
    pretrained: PretrainedOption = None,
    top: TopOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the folds.")] = 0,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """List the labels that trained heads disagree with, worst first.

    Each image is judged by heads that were trained on other images. Write `add`, `remove` or `keep` into the column
    `decision` of the list. Then run the command again with --apply to apply your decisions.
    """
    from mlclip.data import read_dataset
    from mlclip.data.read import input_files

    check_seed(seed)
    if apply is not None:
        check_manifest(out, *data, apply)
        _apply(apply, read_dataset(*data), out)
        return
    names = [name.strip() for name in heads.split(",") if name.strip()]
    for name in names or [""]:
        check_head(name)
    check_number("--folds", folds, 3, whole=True)
    check_output(out, [file for source in data for file in input_files(source)], (".csv",))
    from mlclip.audit import audit, write_sheet

    dataset = read_dataset(*data).labelled()
    if top is not None:
        dataset = dataset.with_classes(dataset.top(top))
    store = feature_cache(encoder, pretrained, cache)
    with progress("training heads") as on_training:
        found = audit(
            dataset, store.encoder, store, [Recipe(name) for name in names], folds, seed, on_training=on_training
        )
    write_sheet(out, dataset, found.doubts[:limit], found.suggested)
    table = Table("label", "images", "missing?", "wrong?", "errors per image")
    for label in found.labels[:20]:
        name = dataset.classes[label.label]
        table.add_row(name, f"{label.images:,}", f"{label.missing:,}", f"{label.wrong:,}", f"{label.share:.2f}")
    console.print(table)
    listed, suspected = found.doubts[:limit], sum(doubt.suspected for doubt in found.doubts)
    counts = f"{len(found.doubts):,} doubts about the labels of {len(dataset):,} images"
    say(f"{counts}, {suspected:,} of them suspected errors")
    say(f"wrote {len(listed):,} of them to {out} and, with pictures, {out.with_suffix('.html')}")


def _apply(decisions: Path, dataset: Dataset, out: Path) -> None:
    from mlclip.audit import apply_sheet
    from mlclip.data import write_manifest

    done = apply_sheet(decisions, dataset)
    write_manifest(done.dataset, out)
    bare = sum(not item.labels for item in done.dataset.items) - sum(not item.labels for item in dataset.items)
    counts = f"{done.added:,} labels added, {done.removed:,} removed, {done.kept:,} kept, {done.undecided:,} undecided"
    say(f"{counts}; wrote {out}")
    if bare > 0:
        say(f"{bare:,} images have no label left")
