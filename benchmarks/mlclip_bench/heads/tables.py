"""The tables of a comparison, in Markdown."""

from collections.abc import Iterable

import numpy as np

from mlclip_bench.heads.baselines import REGRESSION
from mlclip_bench.heads.comparison import Comparison
from mlclip_bench.heads.derive import Derived, Shots
from mlclip_bench.heads.metrics import cell, percent, values_of
from mlclip_bench.heads.studies import RULES, STUDY_RATES, THESIS_F2
from mlclip_bench.kit.markdown import table

MARK = "●"
COMPARED_AS = {
    "mean_average_precision": ("mAP", "test mAP"),
    "f1_micro": ("F1 micro", "micro F1"),
    "f2_micro": ("F2 micro", "micro F2"),
}
"""Title of each compared metric in `metrics.METRICS`, and in sentences."""
HEADLINES = ("mean_average_precision", "f1_micro")  # what every study compares
THESIS = ("F2 micro", "MSE", "R micro", "P micro", "accuracy", "subset accuracy", "ROC AUC micro")
"""The columns of document 002, Table 4.8."""


def metrics_table(derived: Derived, shots: Shots, titles: Iterable[str], marked_by: str) -> str:
    """A row per method: mean ± deviation over seeds; a mark for those that cannot be told apart from the highest.

    Metrics that are undefined for all methods are left out. `marked_by`, a key of COMPARED_AS, decides about marks.
    """
    methods = derived.runs[shots]
    columns = {title: {name: values_of(title, lines) for name, lines in methods.items()} for title in titles}
    shown = {
        title: values
        for title, values in columns.items()
        if any(value is not None for own in values.values() for value in own)
    }
    compared = derived.comparisons[shots].get(marked_by)
    rows = [
        [
            _marked(compared, name, name),
            str(len(lines)),
            *(cell(title, values[name]) for title, values in shown.items()),
        ]
        for name, lines in methods.items()
    ]
    return table(["", "seeds", *shown], rows)


def shots_table(derived: Derived, metric: str) -> str:
    """A row per method, a column per number of training images; each column has its own marks."""
    title, _ = COMPARED_AS[metric]

    def shown(name: str, shots: Shots) -> str:
        lines = derived.runs[shots].get(name)
        if lines is None:
            return "-"
        return _marked(derived.comparisons[shots].get(metric), name, cell(title, values_of(title, lines)))

    names = dict.fromkeys(name for methods in list(derived.runs.values())[::-1] for name in methods)
    header = [title, *("all" if k is None else str(k) for k in derived.runs)]
    return table(header, [[name, *(shown(name, k) for k in derived.runs)] for name in names])


def differences_table(derived: Derived) -> str:
    """Every method against the highest and against logistic regression; empty if there is nothing to compare."""
    compared = derived.comparisons[None]
    if not compared or len(next(iter(compared.values())).methods) < 2:
        return ""

    def shown(values: Comparison, one: str, other: str) -> str:
        known = one != other and {one, other} <= {*values.methods}
        return gap(values, values.methods.index(one), values.methods.index(other)) if known else "-"

    best = {name: values.methods[values.best] for name, values in compared.items()}
    header = ["", *(f"{COMPARED_AS[name][1]} below {best[name]}" for name in compared), f"mAP above {REGRESSION}"]
    rows = [
        [
            method,
            *(shown(values, best[name], method) for name, values in compared.items()),
            shown(compared["mean_average_precision"], method, REGRESSION),
        ]
        for method in derived.runs[None]
    ]
    return table(header, rows)


def costs_table(derived: Derived) -> str:
    """CPU seconds, wall seconds and epochs per training, means over seeds."""
    keys = ("cpu_seconds", "wall_seconds", "epochs")
    rows = [
        [name, *(f"{np.mean([line.get(key, 0) for line in lines]):,.0f}" for key in keys)]
        for name, lines in derived.runs[None].items()
    ]
    return table(["", "CPU s", "wall s", "epochs"], rows)


def thesis_table(derived: Derived) -> str:
    """The recipes of document 002 by F2 beside the document's; empty without one."""
    own = {name: lines for name, lines in derived.runs[None].items() if name.startswith("002")}
    compared = derived.comparisons[None].get("f2_micro")
    ranked = sorted(own, key=lambda name: -np.mean(percent("F2 micro", own[name])))
    rows = [
        [_marked(compared, name, name), _printed(THESIS_F2.get(name)),
         *(cell(title, values_of(title, own[name])) for title in THESIS)]
        for name in ranked
    ]  # fmt: skip
    return table(["", "F2 there", *THESIS], rows) if rows else ""


def rules_table(derived: Derived, average: str) -> str:
    """The recipes whose documents state no threshold: precision, recall and F1 by each rule; empty without one."""
    rows = []
    for name, lines in derived.runs[None].items():
        if all("rules" in line for line in lines):
            cells = [
                " / ".join(
                    _printed(100 * np.mean([line["rules"][rule][average][rate] for line in lines]))
                    for rate in ("precision", "recall", "f1")
                )
                for rule in lines[0]["rules"]
            ]
            there = " / ".join(map(_printed, STUDY_RATES.get(name, ())))
            rows.append([name, there or "-", cell("mAP", values_of("mAP", lines)), *cells])
    header = [f"P / R / F1 {average}", "there", "mAP", *RULES]
    return table(header, rows) if rows else ""


def gap(compared: Comparison, one: int, other: int) -> str:
    """A difference in points, and its interval."""
    value = 100 * (compared.estimates[one] - compared.estimates[other])
    low, high = 100 * compared.difference_low[one, other], 100 * compared.difference_high[one, other]
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _printed(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _marked(compared: Comparison | None, name: str, text: str) -> str:
    leads = compared is not None and len(compared.methods) > 1 and name in compared.leading
    return f"{MARK} {text}" if leads else text
