"""`mlclip-bench heads`: all methods on one dataset and one encoder, with the noise stated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlclip.cli.options import CacheOption, EncoderOption, PretrainedOption, TopOption, dataset, feature_cache, run_data
from mlclip.console import console
from mlclip.encoders import DEFAULT_CACHE, DEFAULT_ENCODER
from mlclip_bench.kit.options import REJECTED, DebugOption, numbers_or
from mlclip_bench.kit.progress import progress

if TYPE_CHECKING:
    from mlclip.training.loop import Epoch
    from mlclip_bench.heads.results import Results
    from mlclip_bench.heads.run import Task


def heads(
    out: Annotated[Path | None, typer.Option(help="Folder for raw lines, report and figures.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", help="Prepared data with splits. Without it, the report is derived again from what is in --out."
        ),
    ] = None,
    runs: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Compare two run folders instead, OLD NEW, on the validation images of NEW or of --data."),
    ] = None,
    study: Annotated[str, typer.Option(help="heads, losses, alignment or recipes.")] = "heads",
    heads: Annotated[str | None, typer.Option(help="Heads such as sigmoid,mld; by default all but siglip.")] = None,
    shots: Annotated[str, typer.Option(help="Training images per label, such as 1,2,4,8,16,all.")] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    top: TopOption = None,
    encoder: EncoderOption = DEFAULT_ENCODER,
    pretrained: PretrainedOption = None,
    note: Annotated[str | None, typer.Option(help="A sentence for the report, such as what the encoder saw.")] = None,
    cache: CacheOption = DEFAULT_CACHE,
    debug: DebugOption = False,
) -> None:
    """Compare methods on one dataset: raw lines, a report with intervals, figures. Finished runs are not repeated."""
    if runs is not None:
        _compare(*runs, data, cache)
        return
    if out is None:
        raise typer.BadParameter("give a folder, or two --runs", param_hint="--out")
    from mlclip_bench.heads.results import Results
    from mlclip_bench.heads.run import measure_missing, missing, plan, setting_of, warm
    from mlclip_bench.heads.studies import variants_of

    results = Results(out)
    failed = False
    try:
        if data:
            counts = numbers_or("all", "--shots", shots, "whole numbers and `all`, such as 1,4,16,all")
            tasks = plan(variants_of(study, heads.split(",") if heads else None), seeds, counts)
            chosen, store = dataset(data, top), feature_cache(encoder, pretrained, cache)
            setting = setting_of(study, chosen, store, data, top)
            results.check(setting)
            todo = missing(tasks, results.latest())
            with progress() as on_step:
                warm(chosen, store, todo, lambda done, total: on_step("encoding images", done, total))

                def show(task: Task, epoch: Epoch | None = None) -> None:
                    detail = f", epoch {epoch.number}" if epoch else ""
                    on_step(f"{task.variant}, seed {task.seed}{detail}", todo.index(task), len(todo))

                for line in measure_missing(todo, results, chosen, store, setting, on_task=show, on_epoch=show):
                    failed |= "error" in line
                    console.print(_summary(line), highlight=False, markup=False)
    except KeyboardInterrupt:
        console.print("stopped; what was finished is kept, and the same command continues from there")
        if any("error" not in line for line in results.lines()):
            _derive(results, note)
        raise
    _derive(results, note)
    if failed:
        raise typer.Exit(REJECTED)


def _compare(old: Path, new: Path, data: list[str] | None, cache: Path) -> None:
    from mlclip.checkpoint import load_run
    from mlclip_bench.heads.upgrade import compare_runs

    before, after = load_run(old), load_run(new)
    console.print(compare_runs(before, after, run_data(after.training, data), cache), soft_wrap=True)


def _derive(results: Results, note: str | None) -> None:
    from mlclip_bench.heads.derive import derive
    from mlclip_bench.heads.figures import draw_figures
    from mlclip_bench.heads.report import write_report

    if note is not None:
        results.save_note(note)
    derived = derive(results)
    draw_figures(derived, results.folder)
    write_report(derived, results.folder)
    console.print(f"wrote {results.folder / 'report.md'}")


def _summary(line: dict[str, Any]) -> str:
    shots = "" if line["shots"] is None else f", {line['shots']} per label"
    name = f"{line['variant']}{shots}, seed {line['seed']}"
    if "error" in line:
        return f"{name}: failed: {line['error']}"
    metrics = line["test"]
    mean = metrics["mean_average_precision"] or 0.0
    return f"{name}: test mAP {mean:.3f}, micro F1 {metrics['micro']['f1']:.3f} ({line['wall_seconds']:.0f} s)"
