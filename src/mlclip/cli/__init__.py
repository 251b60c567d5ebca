"""The command line `mlclip`: thin callers of the library, a file a family of commands."""

from __future__ import annotations

import logging
import sys

import typer

from mlclip.cli.data import app as data
from mlclip.cli.encode import encoders, features, pretrain
from mlclip.cli.evaluate import evaluate, tune
from mlclip.cli.train import train
from mlclip.console import run_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Few-shot multi-label image classification on frozen CLIP.",
)
app.add_typer(data, name="data")
for command in (features, pretrain, train, tune, encoders):
    app.command()(command)
app.command("eval")(evaluate)


def main() -> None:
    """Entry point: one line for an error, exit code 1; `--debug` shows the traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mlclip").setLevel(logging.INFO)
    logging.getLogger().addFilter(lambda record: True)
    run_app(app)
