"""`mlclip references`: the labelled images that a run of the neighbour family searches."""

from pathlib import Path
from typing import Annotated

import typer

from mlclip.cli.options import CacheOption, RunArgument
from mlclip.console import progress, say
from mlclip.encoders import DEFAULT_CACHE
from mlclip.errors import DataError


def references(
    run: RunArgument,
    add: Annotated[
        list[str] | None, typer.Option(help="Labelled images to add: manifest, folder or COCO JSON; repeatable.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(help="A reference's id, or a text file with one id per line; repeatable.")
    ] = None,
    list_all: Annotated[
        bool, typer.Option("--list", help="Print the id and labels of each reference, separated by a tab.")
    ] = False,
    new_labels: Annotated[
        bool,
        typer.Option(
            "--new-labels/--known-labels", help="With --add: make unknown labels new classes, or ignore them."
        ),
    ] = True,
    drop_labels: Annotated[
        bool, typer.Option("--drop-labels", help="With --remove: also remove classes without a reference.")
    ] = False,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Add, remove or list the references of a run, without training.

    A reference is a labelled image that the head compares new images with. Images of the splits val and test are not
    added. Thresholds stay; `mlclip tune` chooses new ones.
    """
    if sum((bool(add), bool(remove), list_all)) != 1:
        raise typer.BadParameter("give one of --add DATA, --remove ID and --list")
    if list_all:
        _list(run)
    elif add:
        _add(run, add, new_labels, cache)
    elif remove:
        _remove(run, remove, drop_labels)


def _list(folder: Path) -> None:
    from mlclip.checkpoint import load_run

    run = load_run(folder)
    if not run.head.reference_ids:
        raise DataError(f"{folder}: the head {run.head_name} keeps no references")
    for name, row in zip(run.head.reference_ids, run.head.reference_targets() > 0, strict=True):
        labels = "|".join(run.labels[n] for n in row.nonzero().flatten().tolist())
        typer.echo(f"{name}\t{labels}")


def _add(folder: Path, sources: list[str], new_labels: bool, cache: Path) -> None:
    from mlclip.checkpoint import Run, edit_run
    from mlclip.data import read_dataset
    from mlclip.encoders.features import FeatureCache
    from mlclip.training.references import append_references

    data = read_dataset(*sources)

    def change(run: Run) -> Run:
        store = FeatureCache(run.encoder.load(), cache)
        with progress("encoding images") as on_features:
            return append_references(run, data, store, new_labels=new_labels, on_features=on_features)

    before, after = edit_run(folder, change)
    added = len(after.head.reference_ids) - len(before.head.reference_ids)
    say(f"{added:,} references added, {len(after.head.reference_ids):,} in all")
    if added < len(data):
        rest = f"{len(data) - added:,} images left out"
        say(f"{rest}: already references, without a class label, or in val or test")
    classes = after.labels[len(before.labels) :]
    if classes:
        threshold = f"threshold {after.thresholds[-1]:.4g} (the median of the run's)"
        say(f"{len(classes):,} new classes, {threshold}: {', '.join(classes)}")
    if added:
        _say_next_steps(folder)


def _remove(folder: Path, given: list[str], drop_labels: bool) -> None:
    from mlclip.checkpoint import edit_run
    from mlclip.training.references import remove_references

    before, after = edit_run(
        folder, lambda run: remove_references(run, _ids(given, run.head.reference_ids), drop_labels=drop_labels)
    )
    removed = len(before.head.reference_ids) - len(after.head.reference_ids)
    say(f"{removed:,} references removed, {len(after.head.reference_ids):,} in all")
    dropped = [name for name in before.labels if name not in after.labels]
    if dropped:
        say(f"{len(dropped):,} classes dropped: {', '.join(dropped)}")
    counts = after.head.reference_targets().sum(dim=0).tolist()
    bare = [name for name, count in zip(after.labels, counts, strict=True) if not count]
    if bare:
        say(f"{len(bare):,} classes have no reference left and score 0: {', '.join(bare)}")
    _say_next_steps(folder)


def _ids(given: list[str], known: tuple[str, ...]) -> list[str]:
    ids: list[str] = []
    for name in given:
        if name in known or not Path(name).is_file():
            ids.append(name)
            continue
        try:
            ids += [line for line in Path(name).read_text(encoding="utf-8").splitlines() if line]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{name} is neither a reference nor a text file with ids: {error}") from error
    return ids


def _say_next_steps(folder: Path) -> None:
    say(f"the run's figures were removed: `mlclip eval {folder}` measures it, `mlclip-export` exports it again")
