"""The command `mlclip-client report`: a thin caller of `write_report`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mlclip_client.cli.ending import say
from mlclip_client.options import REPORT_ROWS

if TYPE_CHECKING:
    from mlclip_client.report.assemble import OnProgress, Show, Written
    from mlclip_client.report.pictures import Reason

_WHY: dict[Reason, str] = {
    "address": "because they are at addresses and a report fetches nothing; the page links web addresses",
    "error": "because they could not be read when they were classified, either",
    "memory": "because they came from memory",
    "unread": "because they could not be read; if paths start elsewhere, name the folder with --images",
}


def report(
    labels: Annotated[
        Path,
        typer.Argument(help="Output of `classify`: .parquet, .jsonl, a folder of .parquet files, or a job's folder."),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    images: Annotated[Path | None, typer.Option(help="Folder that relative paths start from.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many rows, from the first on.")] = REPORT_ROWS,
    blur: Annotated[bool, typer.Option("--blur", help="Blur pictures until the reader asks for them.")] = False,
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Leave all pictures out of the page.")] = False,
) -> None:
    """Write an HTML page of images, labels and scores that you can filter and correct.

    Exit code: 0 the page was written, 1 it could not be written, 2 wrong usage.
    """
    with _progress() as on_progress:
        if images is not None and not images.is_dir():
            raise ValueError(f"--images {images}: no such folder")
        from mlclip_client.report.assemble import write_report  # loads numpy, pyarrow and Pillow

        show: Show = "none" if no_pictures else "blurred" if blur else "clear"
        written = write_report(labels, out, images=images, limit=limit, show=show, on_progress=on_progress)
    for line in _summary(written, labels, out):
        say(line)


def _summary(written: Written, labels: Path, out: Path) -> Iterator[str]:
    beside = f"; it needs the folder {written.folder} beside it" if written.folder else ""
    yield f"{written.rows:,} images, {written.errors:,} with an error; written to {out}{beside}"
    if written.more:
        yield f"{labels} has more rows: these are the first; raise --limit for more"
    yield from (f"{count:,} without a picture, {_WHY[reason]}" for reason, count in written.without_picture.items())


@contextlib.contextmanager
def _progress() -> Iterator[OnProgress]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(step, total=total)
            progress.update(tasks[step], completed=done)

        yield show
