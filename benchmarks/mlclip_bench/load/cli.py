"""The command `mlclip-bench load`: a thin caller."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mlclip.console import console, progress
from mlclip.json_lines import Line
from mlclip_bench.load.define import Images, Load, LoadError, Pace, Questions, read_images
from mlclip_bench.load.derive import Row, open_rows, rows_of
from mlclip_bench.load.search import bracket
from mlclip_bench.load.store import Store
from mlclip_bench.load.sweep import Plan, run_plan
from mlclip_bench.load.windows import Window

if TYPE_CHECKING:
    from mlclip_bench.load.target import Target

REPOSITORY, IMAGES = Path("model_repository"), Path("demo/data/images")
"""Where `make demo` leaves them."""
_REJECTED = 3


def load(
    repository: Annotated[
        Path | None, typer.Option(help="Start a server on this model repository; the default, with model_repository.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Take a server that runs: host:port of its gRPC endpoint.")] = None,
    metrics_url: Annotated[
        str | None, typer.Option(help="With --url, host:port of its metrics: how busy its machine is.")
    ] = None,
    images: Annotated[list[Path] | None, typer.Option(help="Image files and folders; repeatable.")] = None,
    heads: Annotated[str | None, typer.Option(help="Such as mld,sigmoid; by default all that are served.")] = None,
    concurrency: Annotated[str, typer.Option(help="Levels of the closed loop, or none.")] = "1,2,4,8,16,32",
    rates: Annotated[
        str, typer.Option(help="Levels of the open loop in images/s, none, or auto: by what the closed loop reached.")
    ] = "auto",
    slo_p99_ms: Annotated[
        float, typer.Option(min=0, help="Search the highest rate with 99 of 100 answers within this; 0: no search.")
    ] = 200.0,
    out: Annotated[Path, typer.Option(help="Folder for raw lines, tables, picture and report.")] = Path("runs/load"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False,
    derive: Annotated[
        bool, typer.Option("--derive", help="Measure nothing: tables, picture and report of --out anew.")
    ] = False,
    via: Annotated[Literal["bytes", "pixels"], typer.Option(help="Who decodes: server or client.")] = "bytes",
    timeout: Annotated[float, typer.Option(min=0.001, help="Deadline of each request, in seconds.")] = 30.0,
    window: Annotated[float, typer.Option(min=0.1, help="Seconds that a window lasts at least.")] = 5.0,
    window_requests: Annotated[
        int, typer.Option(min=1, help="Images that a closed loop's window holds at least.")
    ] = 100,
    window_arrivals: Annotated[
        int, typer.Option(min=1, help="Images that come in an open loop's window at least.")
    ] = 300,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds of load before the first window.")] = 2.0,
    max_windows: Annotated[int, typer.Option(min=3, help="Unstable after so many, a level is given up.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of arrivals and of the images' order.")] = 0,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Put load on a served model repository: throughput, latency, where time goes, and the rate that holds a target.

    Exits with 3 where images were left out because they cannot be decoded.
    """
    if repository is not None and url is not None:
        raise typer.BadParameter("name a repository to start or the address of a running server, not both")
    target = slo_p99_ms / 1000 or None
    plan = Plan(_integers(concurrency), None if rates == "auto" else _numbers(rates), target)
    store = Store(out)
    if derive:
        return _derive(store, target)
    pace = Pace(window, window_requests, window_arrivals, warmup, max_windows)
    if not resume:
        store.check({}, resume)
    with progress("reading images") as on_image:
        pictures = read_images(images or [IMAGES], seed, on_image=on_image)
    with _server(repository, url, metrics_url) as server:
        from mlclip_bench.load.run import setting_of

        asked = server.choose(heads.split(",") if heads else None)
        questions = Questions(asked, via, timeout, target, seed)
        store.check(setting_of(server, questions, pictures, pace), resume)
        console.print(f"{server.url}: {', '.join(asked)}; {len(pictures.files)} images", highlight=False)
        try:
            with _measuring(server, questions, pictures, pace) as measure:
                run_plan(plan, store, measure, _tell)
        except (KeyboardInterrupt, LoadError) as error:
            if isinstance(error, KeyboardInterrupt):
                console.print("stopped; what was measured is kept, --resume goes on from there")
            if store.lines():
                _derive(store, target)
            raise
    _derive(store, target)
    if pictures.rejected:
        console.print(f"{pictures.rejected} images cannot be decoded and were left out")
        raise typer.Exit(_REJECTED)


def _server(repository: Path | None, url: str | None, metrics: str | None) -> AbstractContextManager[Target]:
    from mlclip_bench.load.target import running, started

    return running(url, metrics) if url is not None else started(repository or REPOSITORY)


def _derive(store: Store, target: float | None) -> None:
    """Tables, picture and report from the raw lines."""
    from mlclip_bench.load.pictures import draw
    from mlclip_bench.load.report import say_bracket, write_report
    from mlclip_bench.load.tables import write_tables

    lines = store.lines()
    if not lines:
        raise LoadError(f"there is nothing in {store.path} to report")
    rows = rows_of(lines)
    write_tables(rows, store.folder)
    draw(rows, target, store.folder)
    written = write_report(rows, lines, target, store.folder)
    if target is not None and open_rows(rows):
        sentence = say_bracket(bracket(open_rows(rows), target), target).replace("**", "")
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    console.print(f"wrote {written}", highlight=False, soft_wrap=True)


def _tell(row: Row) -> None:
    """A level in one line."""
    middle, high = row.percentile(50), row.percentile(99)
    text = f"{row.load}: {row.total.throughput:.1f} answered/s"
    if middle is not None and high is not None:
        text += f", p50 {1000 * middle:.0f} ms, p99 {1000 * high:.0f} ms"
    if row.errors:
        text += ", errors: " + ", ".join(f"{count} {kind}" for kind, count in row.total.errors.items())
    text += "" if row.stable else f", unstable after {row.windows} windows"
    text += ", held up by the client" if row.generator_bound else ""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _measuring(
    server: Target, questions: Questions, images: Images, pace: Pace
) -> Iterator[Callable[[Load, str], Line]]:
    """A bar over the windows of the present level; gives what measures one."""
    from mlclip_bench.load.run import measure

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    errors = Console(stderr=True)
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        shown = bar.add_task("", total=pace.windows)

        def one(load: Load, purpose: str) -> Line:
            bar.reset(shown, description=f"{load}: warm-up")

            def on_window(window: Window) -> None:
                bar.update(shown, advance=1, description=f"{load}: {window.throughput:.1f} answered/s")

            return measure(load, server, questions, images, pace, purpose=purpose, on_window=on_window)

        yield one


def _integers(words: str) -> tuple[int, ...]:
    values = _numbers(words, "--concurrency")
    if any(value != int(value) for value in values):
        raise typer.BadParameter(f"wants whole numbers, not {words!r}", param_hint="--concurrency")
    return tuple(map(int, values))


def _numbers(words: str, option: str = "--rates") -> tuple[float, ...]:
    if words == "none":
        return ()
    try:
        values = tuple(dict.fromkeys(float(word) for word in words.split(",")))
    except ValueError:
        values = (math.nan,)
    if not all(0 < value < math.inf for value in values):
        raise typer.BadParameter(f"wants positive numbers such as 1,2,4, or none, not {words!r}", param_hint=option)
    return values
