"""`mlclip-bench heads`: all methods on one data set and one encoder, with the noise stated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mlclip.cli.options import CacheOption, EncoderOption, PretrainedOption, TopOption, dataset, feature_cache
from mlclip.console import console, progress
from mlclip.encoders.clip import DEFAULT_ENCODER
from mlclip.encoders.features import DEFAULT_CACHE
from mlclip.errors import TrainError

if TYPE_CHECKING:
    from mlclip.training.loop import Epoch
    from mlclip_bench.heads import Results, Task


def compare(
    out: Annotated[Path, typer.Option(help="Folder for raw lines, report and pictures.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", help="Prepared data with splits. Without it, the report is derived again from what is in --out."
        ),
    ] = None,
    study: Annotated[str, typer.Option(help="heads, losses or alignment.")] = "heads",
    heads: Annotated[str | None, typer.Option(help="Such as sigmoid,mld; by default all but siglip.")] = None,
    shots: Annotated[str, typer.Option(help="Training images a label, such as 1,2,4,8,16,all.")] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
    top: TopOption = None,
    encoder: EncoderOption = DEFAULT_ENCODER,
    pretrained: PretrainedOption = None,
    note: Annotated[str | None, typer.Option(help="A sentence for the report, such as what the encoder saw.")] = None,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Compare methods on one data set: raw lines, a report with intervals, pictures. What is there is not run again."""
    from mlclip_bench.heads import Results, measure_missing, missing, plan, setting_of, variants_of, warm

    results = Results(out)
    failed = False
    try:
        if data:
            tasks = plan(variants_of(study, heads.split(",") if heads else None), seeds, _shots(shots))
            chosen, store = dataset(data, top), feature_cache(encoder, pretrained, cache)
            setting = setting_of(study, chosen, store, data, top)
            results.check(setting)
            todo = missing(tasks, results.lines())
            with progress("encoding images") as on_features:
                warm(chosen, store, todo, on_features)
            with _running(len(todo)) as (on_task, on_epoch):
                for line in measure_missing(todo, results, chosen, store, setting, on_task=on_task, on_epoch=on_epoch):
                    failed |= "error" in line
                    console.print(_told(line), highlight=False, markup=False)
    except KeyboardInterrupt:
        console.print("stopped; what was finished is kept, and the same command goes on from there")
        if any("error" not in line for line in results.lines()):
            _derive(results, note)
        raise
    _derive(results, note)
    if failed:
        raise typer.Exit(3)


def _derive(results: Results, note: str | None) -> None:
    from mlclip_bench.heads import derive, draw, write_report

    if note is not None:
        results.save_note(note)
    derived = derive(results)
    draw(results, derived)
    write_report(results, derived)
    console.print(f"wrote {results.folder / 'report.md'}")


def _shots(words: str) -> list[int | None]:
    try:
        shots = [None if word == "all" else int(word) for word in words.split(",")]
        if min(k for k in (*shots, 1) if k is not None) >= 1:
            return shots
    except ValueError:
        pass
    raise TrainError(f"--shots wants whole numbers and `all`, such as 1,4,16,all, not {words!r}")


def _told(line: dict[str, Any]) -> str:
    """A run in one line."""
    shots = "" if line["shots"] is None else f", {line['shots']} a label"
    name = f"{line['variant']}{shots}, seed {line['seed']}"
    if "error" in line:
        return f"{name}: failed: {line['error']}"
    figures = line["test"]
    mean = figures["mean_average_precision"] or 0.0
    return f"{name}: test mAP {mean:.3f}, micro F1 {figures['micro']['f1']:.3f} ({line['wall_seconds']:.0f} s)"


@contextmanager
def _running(total: int) -> Iterator[tuple[Callable[[Task], None], Callable[[Task, Epoch], None]]]:
    """A bar over the runs, with the name and the epoch of the present one; gives what to call for both."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    errors = Console(stderr=True)
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        shown, started = bar.add_task("", total=total), count()

        def on_task(task: Task) -> None:
            bar.update(shown, description=f"{task.variant}, seed {task.seed}", completed=next(started))

        def on_epoch(task: Task, epoch: Epoch) -> None:
            bar.update(shown, description=f"{task.variant}, seed {task.seed}, epoch {epoch.number}")

        yield on_task, on_epoch
