"""`mlclip-bench load`: a served model repository under load."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mlclip.console import console
from mlclip.json_lines import Line
from mlclip_bench.kit.options import REJECTED, DebugOption, DeriveOption, Number, ResumeOption, numbers
from mlclip_bench.kit.progress import Step, progress
from mlclip_bench.load.define import Load, LoadError, Pace, Questions, read_images
from mlclip_bench.load.derive import Row, open_rows, rows_of
from mlclip_bench.load.search import bracket
from mlclip_bench.load.sweep import Measure, Plan, Results, run_plan
from mlclip_bench.load.windows import Window

if TYPE_CHECKING:
    from mlclip_bench.load.run import Setup
    from mlclip_bench.load.target import Target

REPOSITORY, IMAGES = Path("model_repository"), Path("demo/data/images")  # where `make demo` leaves them


def load(
    repository: Annotated[
        Path | None, typer.Option(help="Start a server on this model repository; by default, on model_repository.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Use a server that is running: host:port of its gRPC endpoint.")
    ] = None,
    metrics_url: Annotated[
        str | None, typer.Option(help="With --url: host:port of its metrics, which say how busy its machine is.")
    ] = None,
    images: Annotated[list[Path] | None, typer.Option(help="Image files and folders; repeatable.")] = None,
    heads: Annotated[
        str | None, typer.Option(help="Heads such as mld,sigmoid; by default all that are served.")
    ] = None,
    concurrency: Annotated[str, typer.Option(help="Levels of the closed loop, or none.")] = "1,2,4,8,16,32",
    rates: Annotated[
        str,
        typer.Option(
            help="Levels of the open loop in images/s, none, or auto: shares of what the closed loop reached."
        ),
    ] = "auto",
    slo_p99_ms: Annotated[
        float,
        typer.Option(min=0, help="Search the highest rate with 99 of 100 answers within this time; 0: no search."),
    ] = 200.0,
    out: Annotated[Path, typer.Option(help="Folder for raw lines, tables, figure and report.")] = Path("runs/load"),
    resume: ResumeOption = False,
    derive: DeriveOption = False,
    via: Annotated[Literal["bytes", "pixels"], typer.Option(help="Server or client decodes the images.")] = "bytes",
    timeout: Annotated[float, typer.Option(min=0.001, help="Deadline of each request, in seconds.")] = 30.0,
    window: Annotated[float, typer.Option(min=0.1, help="Seconds per window, at least.")] = 5.0,
    window_requests: Annotated[int, typer.Option(min=1, help="Images per window of the closed loop, at least.")] = 100,
    window_arrivals: Annotated[int, typer.Option(min=1, help="Images per window of the open loop, at least.")] = 300,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds of load before the first window.")] = 2.0,
    max_windows: Annotated[int, typer.Option(min=3, help="Windows after which a level counts as unstable.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the arrivals and of the order of images.")] = 0,
    debug: DebugOption = False,
) -> None:
    """Put load on a served model repository: throughput, latency, where time goes, and the rate that holds a target.

    Exits with 3 if images were left out because they cannot be decoded.
    """
    if repository is not None and url is not None:
        raise typer.BadParameter("name a repository to start or the address of a running server, not both")
    target = slo_p99_ms / 1000 or None
    levels = _levels("--concurrency", concurrency, int, "whole numbers such as 1,2,4, or none")
    auto = rates == "auto"
    plan = Plan(levels, None if auto else _levels("--rates", rates, float, "numbers such as 10,20.5, or none"), target)
    results = Results(out)
    if derive:
        return _derive(results, target)
    pace = Pace(window, window_requests, window_arrivals, warmup, max_windows)
    if not resume:
        results.check_new("--resume continues it")
    with progress() as on_step:
        pictures = read_images(images or [IMAGES], seed, on_image=lambda n, of: on_step("reading images", n, of))
        with _server(repository, url, metrics_url) as server:
            from mlclip_bench.load.run import Setup

            asked = server.choose(heads.split(",") if heads else None)
            setup = Setup(server, Questions(asked, via, timeout, target, seed), pictures, pace)
            results.check(setup.line())
            console.print(f"{server.url}: {', '.join(asked)}; {len(pictures.files)} images", highlight=False)
            try:
                run_plan(plan, results, _measuring(setup, on_step), _print_row)
            except (KeyboardInterrupt, LoadError) as error:
                if isinstance(error, KeyboardInterrupt):
                    console.print("stopped; what was measured is kept, --resume continues from there")
                if results.lines():
                    _derive(results, target)
                raise
    _derive(results, target)
    if pictures.rejected:
        console.print(f"{pictures.rejected} images cannot be decoded and were left out")
        raise typer.Exit(REJECTED)


def _server(repository: Path | None, url: str | None, metrics: str | None) -> AbstractContextManager[Target]:
    from mlclip_bench.load.target import running, started

    return running(url, metrics) if url is not None else started(repository or REPOSITORY)


def _derive(results: Results, target: float | None) -> None:
    from mlclip_bench.load.figures import draw_figures
    from mlclip_bench.load.report import say_bracket, write_report
    from mlclip_bench.load.tables import write_tables

    lines = results.latest()
    if not lines:
        raise LoadError(f"{results.path} holds no level to report")
    rows = rows_of(lines)
    write_tables(rows, results.folder)
    draw_figures(rows, target, results.folder)
    written = write_report(rows, lines, target, results.folder)
    if target is not None and open_rows(rows):
        sentence = say_bracket(bracket(open_rows(rows), target), target).replace("**", "")
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    console.print(f"wrote {written}", highlight=False, soft_wrap=True)


def _print_row(row: Row) -> None:
    middle, high = row.percentile(50), row.percentile(99)
    text = f"{row.load}: {row.total.throughput:.1f} answered/s"
    if middle is not None and high is not None:
        text += f", p50 {1000 * middle:.0f} ms, p99 {1000 * high:.0f} ms"
    if row.errors:
        text += ", errors: " + ", ".join(f"{count} {kind}" for kind, count in row.total.errors.items())
    text += "" if row.stable else f", unstable after {row.windows} windows"
    text += ", limited by the client" if row.generator_bound else ""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _measuring(setup: Setup, on_step: Step) -> Measure:
    """What measures one level, with the windows of the level as progress."""
    from mlclip_bench.load.run import measure

    def one(load: Load, purpose: str) -> Line:
        done = 0
        on_step(f"{load}: warm-up", done, setup.pace.windows)

        def on_window(window: Window) -> None:
            nonlocal done
            done += 1
            on_step(f"{load}: {window.throughput:.1f} answered/s", done, setup.pace.windows)

        return measure(load, setup, purpose=purpose, on_window=on_window)

    return one


def _levels(option: str, text: str, kind: Callable[[str], Number], example: str) -> tuple[Number, ...]:
    return () if text == "none" else numbers(option, text, kind, example)
