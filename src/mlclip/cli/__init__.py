"""The command line `mlclip`: thin callers of the library, one file per group of commands."""

import logging
import sys

import typer

from mlclip.cli.audit import audit
from mlclip.cli.data import app as data
from mlclip.cli.encode import encoders, features, pretrain
from mlclip.cli.evaluate import evaluate
from mlclip.cli.heads import heads, recipes
from mlclip.cli.references import references
from mlclip.cli.train import OWN_OPTIONS, train
from mlclip.cli.tune import tune
from mlclip.console import run_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Few-shot multi-label image classification on frozen CLIP.",
)
data.command()(audit)
app.add_typer(data, name="data")
for command in (features, pretrain, heads, recipes, tune, encoders, references):
    app.command()(command)
app.command(context_settings=OWN_OPTIONS)(train)
app.command("eval")(evaluate)


def main() -> None:
    """Entry point: one line for an error, exit code 1; `--debug` shows the traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mlclip").setLevel(logging.INFO)
    run_app(app)
