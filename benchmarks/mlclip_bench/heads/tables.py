"""The tables of a comparison, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from mlclip_bench.heads.derived import Derived, Shots
from mlclip_bench.heads.figures import DECISIONS, RANKING, Get, cell, mean_and_deviation
from mlclip_bench.heads.statistics import Comparison

MARK = "●"
FIGURE_WORDS = {"mean_average_precision": "test mAP", "f1_micro": "micro F1"}
COLUMN_OF = {"mean_average_precision": "mAP", "f1_micro": "F1 micro"}


def figures_table(derived: Derived, shots: Shots, columns: Mapping[str, Get], marked_by: str) -> str:
    """A row a method: mean ± deviation over seeds; a mark for those that cannot be told apart from the highest.

    Args:
        derived: the comparison.
        shots: training images a class; None for all.
        columns: titles and figures; one that is undefined for all methods is left out.
        marked_by: the figure that decides about marks, a key of FIGURE_WORDS.
    """
    methods = derived.runs[shots]
    shown = {
        title: get
        for title, get in columns.items()
        if any(get(line["test"]) is not None for lines in methods.values() for line in lines)
    }
    compared = derived.comparisons[shots].get(marked_by)
    rows = []
    for name, lines in methods.items():
        cells = [cell(title, [get(line["test"]) for line in lines]) for title, get in shown.items()]
        rows.append([_marked(compared, name, name), str(len(lines)), *cells])
    return _table(["", "seeds", *shown], rows)


def shots_table(derived: Derived, figure: str) -> str:
    """A row a method, a column a number of training images a label; each column has its own marks."""
    title = COLUMN_OF[figure]
    get = {**RANKING, **DECISIONS}[title]

    def told(name: str, shots: Shots) -> str:
        lines = derived.runs[shots].get(name)
        if lines is None:
            return "-"
        return _marked(derived.comparisons[shots].get(figure), name, cell(title, [get(line["test"]) for line in lines]))

    names = dict.fromkeys(name for methods in list(derived.runs.values())[::-1] for name in methods)
    heads = [title, *("all" if k is None else str(k) for k in derived.runs)]
    return _table(heads, [[name, *(told(name, k) for k in derived.runs)] for name in names])


def differences_table(derived: Derived) -> str:
    """Every method against the highest, for each figure; empty where there is nothing to compare."""
    figures = derived.comparisons[None]
    if not figures or len(next(iter(figures.values())).methods) < 2:
        return ""

    def told(name: str, figure: Comparison) -> str:
        compared = name in figure.methods and name != figure.methods[figure.best]
        return gap(figure, figure.best, figure.methods.index(name)) if compared else "-"

    heads = ["", *(f"{FIGURE_WORDS[name]} below {figure.methods[figure.best]}" for name, figure in figures.items())]
    return _table(heads, [[name, *(told(name, figure) for figure in figures.values())] for name in derived.runs[None]])


def costs_table(derived: Derived) -> str:
    """CPU seconds, wall seconds and epochs of a training, means over seeds."""
    keys = ("cpu_seconds", "wall_seconds", "epochs")
    rows = [
        [name, *(f"{mean_and_deviation([line.get(key, 0) for line in lines])[0]:,.0f}" for key in keys)]
        for name, lines in derived.runs[None].items()
    ]
    return _table(["", "CPU s", "wall s", "epochs"], rows)


def gap(figure: Comparison, one: int, other: int) -> str:
    """A difference in points, and its interval."""
    value = 100 * (figure.estimates[one] - figure.estimates[other])
    low, high = 100 * figure.difference_low[one, other], 100 * figure.difference_high[one, other]
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _marked(compared: Comparison | None, name: str, text: str) -> str:
    leads = compared is not None and len(compared.methods) > 1 and name in compared.leading
    return f"{MARK} {text}" if leads else text


def _table(heads: list[str], rows: list[list[str]]) -> str:
    rule = "| --- |" + " ---: |" * (len(heads) - 1)
    return "\n".join([f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])
