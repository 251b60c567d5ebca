"""Output of the command lines: progress bars, tables and one-line errors."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mlclip.errors import MlclipError

console = Console(markup=False, emoji=False, highlight=False)
_errors = Console(stderr=True, markup=False, emoji=False, highlight=False)


def run_app(app: typer.Typer) -> None:
    """Run a command line: a MlclipError or OSError becomes one line and exit code 1, or a traceback with `--debug`.

    What is no UTF-8 in a file's name is printed as an escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=arguments)
    except (MlclipError, OSError) as error:
        if debug:
            traceback.print_exc()
        message = str(error)
        if isinstance(error, OSError) and error.strerror:
            message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        _errors.print(Text("error:", "bold red"), message, soft_wrap=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _errors.print("stopped; finished work is kept")
        raise SystemExit(130) from None


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr that appears with its first report of (done, total)."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_errors, transient=True, disable=not _errors.is_terminal) as bar:
        task = bar.add_task(title, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=done < total)


def say(line: str) -> None:
    """Print a line as it is: neither coloured nor wrapped."""
    console.print(line, soft_wrap=True)


def metrics_table(columns: dict[str, dict[str, Any]]) -> Table:
    """Figures side by side: column title to the dict from `Metrics.to_dict`."""
    table = Table("", *columns, title=None)
    for name, get in _FIGURES.items():
        table.add_row(name, *(_figure(get(metrics)) for metrics in columns.values()))
    return table


def class_table(metrics: dict[str, Any]) -> Table:
    """One row per class: images, threshold, precision, recall, specificity, F1, F2, average precision, ROC AUC."""
    titles = ("images", "threshold", "P", "R", "spec.", "F1", "F2", "AP", "AUC")
    table = Table("label", *titles, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    keys = ("threshold", "precision", "recall", "specificity", "f1", "f2", "average_precision", "roc_auc")
    for row in metrics["per_class"]:
        figures = (row[key] for key in keys)
        table.add_row(row["label"], str(row["positives"]), *map(_figure, figures))
    return table


_FIGURES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "images": lambda m: m["images"],
    "classes": lambda m: m["classes"],
    "  of them without an image": lambda m: m["classes_without_positives"],
    "prevalence": lambda m: m["prevalence"],
    "mAP (macro)": lambda m: m["mean_average_precision"],
    "precision micro": lambda m: m["micro"]["precision"],
    "recall micro": lambda m: m["micro"]["recall"],
    "F1 micro": lambda m: m["micro"]["f1"],
    "F2 micro": lambda m: m["micro"]["f2"],
    "precision macro": lambda m: m["macro"]["precision"],
    "recall macro": lambda m: m["macro"]["recall"],
    "F1 macro": lambda m: m["macro"]["f1"],
    "F2 macro": lambda m: m["macro"]["f2"],
    "precision weighted": lambda m: m["weighted"]["precision"],
    "recall weighted": lambda m: m["weighted"]["recall"],
    "F1 weighted": lambda m: m["weighted"]["f1"],
    "F2 weighted": lambda m: m["weighted"]["f2"],
    "specificity micro": lambda m: m["micro"]["specificity"],
    "specificity macro": lambda m: m["macro"]["specificity"],
    "P@1": lambda m: m["precision_at"].get("1"),
    "nDCG@5": lambda m: m["ndcg_at"].get("5"),
    "ROC AUC micro": lambda m: m["roc_auc_micro"],
    "ROC AUC macro": lambda m: m["roc_auc_macro"],
    "accuracy": lambda m: m["accuracy"],
    "subset accuracy": lambda m: m["subset_accuracy"],
    "MSE": lambda m: m["mse"],
}


def _figure(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
