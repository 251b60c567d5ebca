"""The commands `mlclip-client heads` and `duplicates`."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from mlclip_client.cli.ending import check_stdout, say
from mlclip_client.files import replacing
from mlclip_client.options import Endpoints
from mlclip_client.output.files import check_output
from mlclip_client.wording import counted

if TYPE_CHECKING:
    from mlclip_client.values import HeadInfo

_PIPE_WIDTH = 160
"""Columns of a table that goes into a pipe or a file: wide enough not to wrap."""


def duplicates(
    labels: Annotated[Path, typer.Argument(help="Rows with embeddings: a Parquet file, or a folder of them.")],
    cosine: Annotated[
        float, typer.Option(min=-1, max=1, help="Cosine similarity from which two images count as alike.")
    ] = 0.97,
    out: Annotated[Path, typer.Option(help="CSV file to write: each image (path) and the earlier one (like).")] = Path(
        "duplicates.csv"
    ),
) -> None:
    """List images that resemble an earlier one, by their embeddings (`classify --embeddings`)."""
    check_output(out, ".csv")
    from mlclip_client.output.near_duplicates import first_alike, read_embeddings  # loads numpy and pyarrow

    paths, embeddings = read_embeddings(labels)
    pairs = [(row, like) for row, like in enumerate(first_alike(embeddings, cosine)) if row != like]
    with replacing(out) as file:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([("path", "like"), *((paths[row], paths[like]) for row, like in pairs)])
        file.write(text.getvalue().encode())
    pictures = counted(len(paths), "picture")
    resemble = "resembles" if len(pairs) == 1 else "resemble"
    say(f"{len(pairs):,} of {pictures} {resemble} an earlier one; written to {out}")


def heads(server: Endpoints) -> None:
    """List the heads that a server serves."""
    from mlclip_client.client import Client  # loads gRPC

    with Client(server.urls, timeout=server.timeout, security=server) as client:
        check_stdout()
        table = Table("head", "classes", "encoder", "image size", "thresholds", "promise", "version", "first labels")
        for info in client.heads():
            table.add_row(*_head_cells(info))
        width = None if sys.stdout.isatty() else _PIPE_WIDTH
        console = Console(width=width, markup=False, emoji=False, highlight=False)  # names are text, whatever they hold
        console.print(table if table.row_count else f"{server.url} serves no heads")


def _head_cells(info: HeadInfo) -> tuple[str, ...]:
    low, middle, high = min(info.thresholds), median(info.thresholds), max(info.thresholds)
    return (
        info.name,
        str(len(info.labels)),
        info.encoder,
        str(info.spec.size),
        f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}, median {middle:.3g}",
        _promise(info),
        info.version,
        ", ".join(info.labels[:3]) + (", ..." if len(info.labels) > 3 else ""),
    )


def _promise(info: HeadInfo) -> str:
    said = ["probabilities"] if info.calibrated else []
    if info.promise is not None:
        kept, promise = list(info.promise["classes"].values()).count(None), info.promise
        sure = f"at confidence {promise['confidence']:g}"
        said.append(f"{promise['figure']} {promise['level']:g} {sure} for {kept} of {len(info.labels)} classes")
    return ", ".join(said)
