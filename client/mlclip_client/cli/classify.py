"""The command `mlclip-client`: a thin caller of the library."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import signal
import sys
import warnings
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from mlclip_client.bulk.request import JobOptions, MonitorOptions, Request, ServerOptions
from mlclip_client.bulk.stream import run_stream
from mlclip_client.cli import options
from mlclip_client.cli.jobs import retry_failed, status
from mlclip_client.cli.remembered import as_begun, given, options_of
from mlclip_client.cli.report import report
from mlclip_client.client import Client
from mlclip_client.events import logged
from mlclip_client.inputs import USER_AGENT, InputOptions
from mlclip_client.jobs.run import run_job
from mlclip_client.output.near_duplicates import first_alike, read_embeddings
from mlclip_client.output.rows import RowOptions
from mlclip_client.output.writers import check_place, check_target
from mlclip_client.session import MAX_BYTES
from mlclip_client.values import HeadInfo
from mlclip_client.wording import counted

_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3
"""Of glibc's malloc.h."""
_PIPE_WIDTH = 160
"""Columns of a table that goes into a pipe or a file: wide enough not to wrap."""
app = typer.Typer(
    help="Send images to an mlclip Triton server and get labels back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def classify(
    context: typer.Context,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders, globs, tars, manifests (.parquet, .csv, .jsonl), lists (.txt), URLs, s3://..., or - "
            "for paths and URLs on stdin."
        ),
    ] = None,
    head: Annotated[list[str] | None, typer.Option(help="A head to ask; repeat for several.")] = None,
    out: Annotated[
        str | None, typer.Option(help="A .parquet or .jsonl file, or - for stdout. \\[default: labels.parquet]")
    ] = None,
    job: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=as_begun,
            help="Folder of a job: survives being killed, goes on, and can be shared.",
        ),
    ] = None,
    url: options.Url = "127.0.0.1:8001",
    concurrency: options.Concurrency = 32,
    timeout: options.Timeout = 30.0,
    retry_seconds: options.RetrySeconds = 60.0,
    via: options.Via = "bytes",
    embedded: options.Embedded = None,
    threads: options.Threads = 0,
    top_k: Annotated[int, typer.Option(min=0, help="Best labels to list, selected or not.")] = 5,
    scores: Annotated[bool, typer.Option("--scores", metavar="", help="Also write the scores of all classes.")] = False,
    embeddings: Annotated[bool, typer.Option("--embeddings", metavar="", help="Also write image embeddings.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", metavar="", help="Also write the reference images behind each answer.")
    ] = False,
    texts: Annotated[
        Path | None, typer.Option(help="Titles for heads that read text: .csv or .jsonl with `path` and `text`.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="The manifests' column of paths, URLs or bytes, where it is not obvious.")
    ] = None,
    null: Annotated[
        bool, typer.Option("--null", metavar="", help="Lists have NULs between names, as of find -print0.")
    ] = False,
    max_bytes: options.MaxBytes = MAX_BYTES,
    download_seconds: options.DownloadSeconds = 30.0,
    per_host: options.PerHost = 4,
    private: options.Private = False,
    ignore_robots: options.IgnoreRobots = False,
    proxy: options.Proxy = None,
    user_agent: options.UserAgent = USER_AGENT,
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows of a job's shard.")] = 1000,
    max_failures: options.MaxFailures = 1000,
    engine: options.Engine = "local",
    ray_address: options.RayAddress = None,
    ray_workers: options.RayWorkers = 0,
    metrics_port: options.MetricsPort = None,
    metrics_host: options.MetricsHost = "127.0.0.1",
    log: options.Log = None,
    debug: options.Debug = False,
) -> None:
    """Label images and write one row each; inputs that fail get a row with their error.

    With --job, the same command goes on with what was stopped, or `--job DIR` alone, with the options that the job was
    begun with; several may work on one job.
    Exit code: 0 all labelled, 1 the server failed, 2 wrong usage, 3 some inputs could not be used.
    """
    columns = RowOptions(top_k=top_k, scores=scores, embeddings=embeddings, explain=explain)
    watching = MonitorOptions(metrics_port, metrics_host)
    with options.reported(debug), logged(log):
        limits = options.limits(
            max_bytes, download_seconds, concurrency, per_host, private, ignore_robots, proxy, user_agent
        )
        working = JobOptions(shard_rows, max_failures, options.cluster(engine, ray_address, ray_workers))
        if job is None:
            options.refuse(given(context, "engine", "shard_rows", "max_failures"), "only with --job DIR, a job")
        embedded = options.models_here(context, embedded, working.cluster)
        asking = ServerOptions(options.split_urls(url), timeout, retry_seconds, concurrency, via, embedded, threads)
        names = _names(paths, job)
        wanted = Request(names, tuple(head) if head else None, columns, InputOptions(column, null), limits, texts)
        if job is None:
            out = out or "labels.parquet"
            check_target(out)
            summary = run_stream(wanted, asking, watching, out)
        else:
            if out is not None:
                check_target(out)
            summary = run_job(job, wanted, asking, watching, working, options_of(context))
        raise typer.Exit(options.conclude(summary, job, out))


app.command()(status)
app.command("retry-failed")(retry_failed)
app.command()(report)


@app.command()
def duplicates(
    labels: Annotated[Path, typer.Argument(help="Rows with embeddings: a Parquet file, or a folder of them.")],
    cosine: Annotated[float, typer.Option(min=-1, max=1, help="From which cosine on two pictures are alike.")] = 0.97,
    out: Annotated[Path, typer.Option(help="A CSV file: path, like.")] = Path("duplicates.csv"),
    debug: options.Debug = False,
) -> None:
    """List pictures that resemble an earlier one, by their embeddings."""
    with options.reported(debug):
        check_place(out)
        paths, embeddings = read_embeddings(labels)
        pairs = [(row, like) for row, like in enumerate(first_alike(embeddings, cosine)) if row != like]
        with out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "like"))
            writer.writerows((paths[row], paths[like]) for row, like in pairs)
        pictures = counted(len(paths), "picture")
        resemble = "resembles" if len(pairs) == 1 else "resemble"
        options.say(f"{len(pairs):,} of {pictures} {resemble} an earlier one; written to {out}")


@app.command()
def heads(url: options.Url = "127.0.0.1:8001", timeout: options.Timeout = 30.0, debug: options.Debug = False) -> None:
    """List the heads that a server serves."""
    with options.reported(debug), Client(options.split_urls(url), timeout=timeout) as client:
        options.check_stdout()
        table = Table("head", "classes", "encoder", "image size", "thresholds", "version", "first labels")
        for info in client.heads():
            table.add_row(*_head_cells(info))
        console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
        console.print(table if table.row_count else f"{url} serves no heads")


def main() -> None:
    """Run the command line."""
    _share_one_heap()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who is asked to stop keeps what is done, too
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # it becomes an error row
    app()


def _share_one_heap() -> None:
    """Have glibc give all threads one heap, and large blocks back at once.

    Rows are made in one thread and freed in another, which leaves gaps in each thread's own heap: from a thousand
    inputs to a million, memory grew by a quarter, and by 8 % with one heap. Other C libraries have no such setting.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


def _names(paths: list[str] | None, job: Path | None) -> tuple[str, ...]:
    if not paths and (job is None or not (job / "job.json").exists()):
        raise ValueError("name inputs: files, folders, manifests, URLs, or - for stdin")
    return tuple(paths or ())


def _head_cells(info: HeadInfo) -> tuple[str, ...]:
    low, middle, high = min(info.thresholds), median(info.thresholds), max(info.thresholds)
    return (
        info.name,
        str(len(info.labels)),
        info.encoder,
        str(info.spec.size),
        f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}, median {middle:.3g}",
        info.version,
        ", ".join(info.labels[:3]) + (", ..." if len(info.labels) > 3 else ""),
    )
