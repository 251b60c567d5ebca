"""The command `mlclip-client`: a thin caller of the library."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import typer
from PIL import Image
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from mlclip_client.bulk import DONE, FAILED, REJECTED, USAGE, Tally, write_rows
from mlclip_client.client import Client
from mlclip_client.errors import ClientError, UnknownHead
from mlclip_client.files import Walk, find_images
from mlclip_client.outputs import check_target, open_writer
from mlclip_client.rows import RowOptions, schema
from mlclip_client.session import MAX_BYTES
from mlclip_client.texts import Texts
from mlclip_client.values import HeadInfo

_PIPE_WIDTH = 160
"""Columns of a table that goes into a pipe or a file: wide enough not to wrap."""
app = typer.Typer(
    help="Send images to an mlclip Triton server and get labels back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Url = Annotated[str, typer.Option(help="Triton's gRPC endpoint, host:port.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Deadline of each request, in seconds.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something goes wrong.")]


@app.command()
def classify(
    paths: Annotated[list[Path], typer.Argument(help="Image files, and folders to search for them.")],
    head: Annotated[list[str] | None, typer.Option(help="A head to ask; repeat for several.")] = None,
    out: Annotated[str, typer.Option(help="A .parquet or .jsonl file, or - for stdout.")] = "labels.parquet",
    url: Url = "127.0.0.1:8001",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 32,
    timeout: Timeout = 30.0,
    via: Annotated[Literal["bytes", "pixels"], typer.Option(help="Who decodes: server or client.")] = "bytes",
    top_k: Annotated[int, typer.Option(min=0, help="Best labels to list, selected or not.")] = 5,
    scores: Annotated[bool, typer.Option("--scores", help="Also write the scores of all classes.")] = False,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Also write image embeddings.")] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Also write the reference images behind each answer."),
    ] = False,
    texts: Annotated[
        Path | None,
        typer.Option(help="Titles for heads that read text: .csv or .jsonl with `path` and `text`."),
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Larger files are refused.")] = MAX_BYTES,
    debug: Debug = False,
) -> None:
    """Label images and write one row each; images that fail get a row with their error.

    Exit code: 0 all labelled, 1 the server failed, 2 wrong usage, 3 some images could not be used.
    """
    options = RowOptions(top_k=top_k, scores=scores, embeddings=embeddings, explain=explain)
    with _reported(debug):
        check_target(out)
        walk, known = Walk(), None if texts is None else Texts(texts)
        images = _some_images(paths, walk)
        with Client(
            url,
            heads=head or None,
            timeout=timeout,
            via=via,
            embeddings=embeddings,
            explain=explain,
            max_bytes=max_bytes,
        ) as client:
            asked = client.asked_heads()
            if known is not None and not any(info.reads_text for info in asked):
                raise ValueError(f"--texts: no head among {', '.join(info.name for info in asked)} reads text")
            items = images if known is None else known.join(images)
            predictions = client.classify_many(items, concurrency=concurrency)
            with open_writer(out, schema(asked, options)) as write, _progress() as (progress, task):
                tally = write_rows(
                    predictions,
                    write,
                    options,
                    lambda tally: progress.update(task, advance=1, errors=tally.errors),
                )
        if known is not None:
            _say(f"{known.used:,} of the images have a text in {texts}, which has {len(known):,}")
        raise typer.Exit(_conclude(tally, walk, out))


@app.command()
def heads(url: Url = "127.0.0.1:8001", timeout: Timeout = 30.0, debug: Debug = False) -> None:
    """List the heads that a server serves."""
    with _reported(debug), Client(url, timeout=timeout) as client:
        table = Table("head", "classes", "encoder", "image size", "thresholds", "version", "first labels")
        for info in client.heads():
            table.add_row(*_head_cells(info))
        console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
        console.print(table if table.row_count else f"{url} serves no heads")


def main() -> None:
    """Run the command line."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # it becomes an error row
    app()


def _some_images(paths: list[Path], walk: Walk) -> Iterator[Path]:
    for path in paths:
        if not path.exists() and not path.is_symlink():
            raise ValueError(f"no such file or folder: {path}")
    images = find_images(paths, walk)
    first = next(images, None)
    if first is None:
        raise ClientError(f"no images found; {_left_alone(walk)}")
    return chain([first], images)


def _conclude(tally: Tally, walk: Walk, out: str) -> int:
    _say(f"{tally}; {_left_alone(walk)}" + ("" if out == "-" else f"; written to {out}"))
    if tally.failed:
        _say(f"error: the server did not answer for every image: {tally.last_failure}")
    if tally.interrupted:
        _say("error: interrupted; the output holds the rows up to here")
    code = tally.exit_code()
    return REJECTED if code == DONE and walk.unreadable else code


def _left_alone(walk: Walk) -> str:
    text = f"{walk.left_alone:,} other files left alone"
    return "; folder not readable: ".join([text, *walk.unreadable])


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


@contextlib.contextmanager
def _progress() -> Iterator[tuple[Progress, TaskID]]:
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:,} images, {task.fields[errors]:,} with an error"),
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield progress, progress.add_task("classify", total=None, errors=0)


@contextlib.contextmanager
def _reported(debug: bool) -> Iterator[None]:
    """Every foreseen error becomes one line and an exit code."""
    try:
        yield
    except (UnknownHead, ValueError, ClientError, OSError) as error:
        if debug or isinstance(error, BrokenPipeError):
            raise
        _say(f"error: {error}")
        raise typer.Exit(USAGE if isinstance(error, UnknownHead | ValueError) else FAILED) from error


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    main()
