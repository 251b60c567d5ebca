"""Output of the command lines: progress bars, tables and one-line errors."""

import io
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
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
    for name, path in _FIGURES.items():
        if any(path.split(".")[0] in metrics for metrics in columns.values()):
            table.add_row(name, *(_figure(figure_at(metrics, path)) for metrics in columns.values()))
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


_FIGURES = {
    "images": "images",
    "classes": "classes",
    "  of them without an image": "classes_without_positives",
    "prevalence": "prevalence",
    "mAP (macro)": "mean_average_precision",
    **{
        f"{rate} {average}": f"{average}.{rate.lower()}"
        for average in ("micro", "macro", "weighted")
        for rate in ("precision", "recall", "F1", "F2")
    },
    **{f"specificity {average}": f"{average}.specificity" for average in ("micro", "macro")},
    "P@1": "precision_at.1",
    "nDCG@5": "ndcg_at.5",
    "ROC AUC micro": "roc_auc_micro",
    "ROC AUC macro": "roc_auc_macro",
    "accuracy": "accuracy",
    "subset accuracy": "subset_accuracy",
    "Brier score (MSE)": "mse",
    "log loss": "log_loss",
    "ECE": "ece",
    "  95 % interval from": "ece_low",
    "  to": "ece_high",
}


def figure_at(metrics: Mapping[str, Any], path: str) -> Any:
    """A figure of what `Metrics.to_dict` gave, such as `micro.f1`; None where it is undefined or unknown."""
    found: Any = metrics
    for key in path.split("."):
        found = found.get(key) if found else None
    return found


def _figure(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
