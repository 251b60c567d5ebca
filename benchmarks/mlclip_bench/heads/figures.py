"""The figures of a comparison: methods, labels, precision against recall, few images.

The darker blue leads, grey needs no encoder. Where many methods share one figure, each has its own panel over the
others in light grey.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlclip.json_lines import Line
from mlclip_bench.heads.baselines import BASELINES, CHANCE
from mlclip_bench.heads.derive import RECALLS, Derived
from mlclip_bench.heads.metrics import percent
from mlclip_bench.heads.tables import COMPARED_AS, HEADLINES
from mlclip_bench.kit.figures import BLUE, INK, LIGHT_BLUE, caption, draw

FAINT = "#D8D8D8"
BARS = {"leading": LIGHT_BLUE, "other": "#CBE4F5", "baseline": "#D5D5D5"}
LINES = {"leading": BLUE, "other": "#56A5D8", "baseline": "#777777"}
ROWS_IN_A_TABLE = 60
Runs = Mapping[str, Sequence[Line]]


def draw_figures(derived: Derived, folder: Path) -> list[Path]:
    """Draw what the runs allow, each as PNG and SVG; returns the files."""
    figures: dict[str, Callable[[], Figure]] = {}
    if None in derived.runs:
        figures["methods"] = partial(methods_figure, derived)
        figures["classes"] = partial(classes_figure, derived.runs[None])
        if derived.curves:
            figures["precision_recall"] = partial(precision_recall_figure, derived)
    if set(derived.runs) - {None}:
        figures["shots"] = partial(shots_figure, derived)
    return draw(figures, folder)


def methods_figure(derived: Derived) -> Figure:
    """Test mAP and micro F1: a bar per method, a dot per seed, a line for the interval."""
    runs = derived.runs[None]
    names = list(runs)[::-1]
    figure = Figure(figsize=(8, 0.8 + 0.3 * len(names)), layout="constrained")
    for axes, key in zip(figure.subplots(1, 2, sharey=True), HEADLINES, strict=True):
        metric, words = COMPARED_AS[key]
        compared = derived.comparisons[None].get(key)
        leading = compared.leading if compared is not None else ()
        for row, name in enumerate(names):
            values = percent(metric, runs[name])
            interval = compared.interval(name) if compared is not None else None
            axes.barh(row, np.mean(values), height=0.64, color=BARS[_standing(name, leading)])
            _spread(axes, row, values, interval)
        axes.set_title(f"{words}, %", loc="left")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.1)
        axes.set_xlim(left=0)
    caption(
        figure,
        "Darker blue: cannot be told apart from the highest. Grey: no encoder. Line: 95 % interval. Dots: seeds.",
    )
    return figure


def classes_figure(runs: Runs) -> Figure:
    """ROC AUC of every label under every method: a coloured table, or sorted curves for many labels."""
    runs = {name: lines for name, lines in runs.items() if name != CHANCE} or runs
    line = next(iter(runs.values()))[0]
    positives = np.array(line["test"]["per_class"]["positives"])
    shown = np.flatnonzero((positives > 0) & (positives < line["test"]["images"]))
    shown = shown[np.argsort(-positives[shown], kind="stable")]
    areas = [np.array([one["test"]["per_class"]["roc_auc"] for one in lines], np.float64) for lines in runs.values()]
    table = np.stack([each.mean(axis=0)[shown] for each in areas], axis=1)
    labels = [f"{line['labels'][n]}  {positives[n]:,}" for n in shown]
    return (
        _table_figure(table, labels, list(runs)) if len(shown) <= ROWS_IN_A_TABLE else _sorted_figure(table, list(runs))
    )


def precision_recall_figure(derived: Derived) -> Figure:
    """A panel per method: micro precision against recall, and the point at the thresholds."""
    runs = {name: derived.runs[None][name] for name in derived.runs[None] if name in derived.curves}
    own = {name: lines for name, lines in runs.items() if name != CHANCE} or runs
    figure, panels = _panels(list(own))
    compared = derived.comparisons[None].get("mean_average_precision")
    leading = compared.leading if compared is not None else ()
    for (name, lines), axes in zip(own.items(), panels, strict=True):
        for other in runs:
            axes.plot(100 * RECALLS, 100 * np.array(derived.curves[other]), color=FAINT, linewidth=0.7)
        colour = LINES[_standing(name, leading)]
        axes.plot(100 * RECALLS, 100 * np.array(derived.curves[name]), color=colour, linewidth=1.8)
        recall, precision = np.mean(percent("R micro", lines)), np.mean(percent("P micro", lines))
        axes.plot(recall, precision, "o", color=colour, markeredgecolor="white", markersize=6)
        axes.set(xlim=(0, 100), ylim=(0, 100), xticks=(0, 50, 100), yticks=(0, 50, 100))
    figure.supxlabel("recall, % of all true pairs", fontsize=9)
    figure.supylabel("precision, %", fontsize=9)
    return figure


def shots_figure(derived: Derived) -> Figure:
    """A panel per method: test mAP against training images per label, with a band of one deviation over seeds."""
    counts = list(derived.runs)
    ticks = ["all" if k is None else str(k) for k in counts]
    names = sorted(derived.runs[counts[-1]], key=CHANCE.__eq__)  # chance last: a line in every panel, none of its own
    means, deviations = (np.full((len(names), len(counts)), np.nan) for _ in range(2))
    for column, k in enumerate(counts):
        for row, name in enumerate(names):
            if name in derived.runs[k]:
                values = percent("mAP", derived.runs[k][name])
                means[row, column], deviations[row, column] = np.mean(values), np.std(values, ddof=len(values) > 1)
    figure, panels = _panels([name for name in names if name != CHANCE] or names)
    places = np.arange(len(counts))
    for row, axes in enumerate(panels):
        axes.plot(places, means.T, color=FAINT, linewidth=0.7)
        colour = LINES[_standing(names[row], names)]
        axes.fill_between(places, means[row] - deviations[row], means[row] + deviations[row], color=colour, alpha=0.25,
                          linewidth=0)  # fmt: skip
        axes.plot(places, means[row], "o-", color=colour, linewidth=1.8, markersize=3.5)
        axes.set_xticks(places, ticks)
        axes.set_ylim(bottom=0)
    figure.supxlabel("training images per label", fontsize=9)
    figure.supylabel("test mAP, %", fontsize=9)
    return figure


def _spread(axes: Axes, row: int, values: Sequence[float], interval: tuple[float, float] | None) -> None:
    """On a bar: the interval as a line, seeds as dots, the mean as a number."""
    end = float(np.mean(values))
    if interval is not None:
        low, high = (100 * bound for bound in interval)
        axes.plot([low, high], [row, row], color=INK, linewidth=1)
        end = max(end, high)
    if len(values) > 1:
        dots = {"markersize": 3.2, "color": "white", "markeredgecolor": INK, "markeredgewidth": 0.6}
        axes.plot(values, [row] * len(values), "o", **dots)  # type: ignore[arg-type]
    axes.annotate(f"{np.mean(values):.1f}", (end, row), (4, 0), textcoords="offset points", va="center", fontsize=8)


def _table_figure(table: npt.NDArray[np.float64], labels: Sequence[str], methods: Sequence[str]) -> Figure:
    figure = Figure(figsize=(max(4.6, 2.2 + 0.5 * len(methods)), 1.6 + 0.19 * len(labels)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(100 * table, cmap="Blues", vmin=50, vmax=108, aspect="auto")
    for row, column in np.ndindex(table.shape):
        value = 100 * table[row, column]
        ink = "white" if value > 80 else INK
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=ink)
    axes.set_xticks(range(len(methods)), methods, rotation=40, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    caption(figure, "ROC AUC in %; 50 is chance.\nBehind each label: its test images.")
    return figure


def _sorted_figure(table: npt.NDArray[np.float64], methods: Sequence[str]) -> Figure:
    """For each method, its labels from the worst to the best."""
    figure, panels = _panels(methods)
    share = np.linspace(0, 100, len(table))
    ordered = 100 * np.sort(table, axis=0)
    for column, axes in enumerate(panels):
        axes.plot(share, ordered, color=FAINT, linewidth=0.7)
        axes.plot(share, ordered[:, column], color=LINES[_standing(methods[column], methods)], linewidth=1.8)
        axes.set(xlim=(0, 100), ylim=(0, 100), xticks=(0, 50, 100), yticks=(0, 50, 100))
    figure.supxlabel("labels, %, from the worst to the best of each method", fontsize=9)
    figure.supylabel("ROC AUC, % (50 is chance)", fontsize=9)
    return figure


def _panels(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    columns = min(4, len(titles))
    rows = math.ceil(len(titles) / columns)
    figure = Figure(figsize=(max(3.0, 2.1 * columns), 0.5 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title(title, loc="left")
    for axes in grid[len(titles) :]:
        axes.remove()
    for axes in grid[max(0, len(titles) - columns) : len(titles)]:
        axes.tick_params(labelbottom=True)
    return figure, list(grid[: len(titles)])


def _standing(name: str, leading: Sequence[str]) -> str:
    return "baseline" if name in BASELINES else "leading" if name in leading else "other"
