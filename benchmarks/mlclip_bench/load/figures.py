"""The figure of a load measurement: throughput above, latency below; closed loop left, open loop right.

Full dots are stable levels, hollow ones are not. Grey is what was asked for, not what was measured.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from mlclip_bench.kit.figures import BLUE, GREY, INK, LIGHT_BLUE, caption, draw, log_scale
from mlclip_bench.load.derive import Row, closed_rows, open_rows
from mlclip_bench.load.search import bracket

_WIDE, _NARROW = 9.5, 5.2


def draw_figures(rows: Sequence[Row], target: float | None, folder: Path) -> list[Path]:
    """Write `load.png` and `load.svg` if there is an answer to show; the target is in seconds."""
    sides = [side for side in (closed_rows(rows), open_rows(rows)) if any(row.total.answered for row in side)]
    return draw({"load": lambda: load_figure(sides, target)} if sides else {}, folder)


def load_figure(sides: Sequence[Sequence[Row]], target: float | None) -> Figure:
    """A column per loop."""
    figure = Figure(figsize=(_WIDE if len(sides) == 2 else _NARROW, 6.2), layout="constrained")
    grid = figure.subplots(2, len(sides), squeeze=False, sharex="col", sharey="row")
    for (above, below), side in zip(grid.T, sides, strict=True):
        known = [row for row in side if row.total.answered]
        closed = bool(closed_rows(side))
        _throughput(above, known, closed)
        _latency(below, known, target, closed)
    caption(
        figure,
        "Full dots: three windows agree within 10 %. Hollow: they do not. Latency of the open loop counts from "
        "the moment at which an image arrived.",
    )
    return figure


def _throughput(axes: Axes, rows: Sequence[Row], closed: bool) -> None:
    levels = [row.level for row in rows]
    values = [row.total.throughput for row in rows]
    if not closed:
        axes.plot([0, max(levels)], [0, max(levels)], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            "all that arrive", (0.4 * max(levels), 0.4 * max(levels)), xytext=(-8, 4), textcoords="offset points",
            ha="right", color="#777777", fontsize=8,
        )  # fmt: skip
    _line(axes, rows, levels, values, BLUE)
    axes.set_title(
        "Closed loop: each client awaits its answer" if closed else "Open loop: images arrive at random", loc="left"
    )
    axes.set_ylim(bottom=0)
    _scale(axes, rows, closed)
    if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
        axes.set_ylabel("answered, images/s")


def _latency(axes: Axes, rows: Sequence[Row], target: float | None, closed: bool) -> None:
    levels = [row.level for row in rows]
    middle, high = ([1000 * (row.percentile(percent) or 0.0) for row in rows] for percent in (50, 99))
    axes.fill_between(levels, middle, high, color=LIGHT_BLUE, alpha=0.18, linewidth=0)
    _line(axes, rows, levels, high, BLUE)
    _line(axes, rows, levels, middle, LIGHT_BLUE)
    _label(axes, levels[-1], high[-1], "p99", BLUE, 4)
    _label(axes, levels[-1], middle[-1], "p50", LIGHT_BLUE, -4)
    log_scale(axes)
    _scale(axes, rows, closed)
    axes.set_xlabel("images under way at once" if closed else "images/s that arrive")
    if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
        axes.set_ylabel("latency, ms")
    if target is not None and not closed:
        _target(axes, rows, target)


def _target(axes: Axes, rows: Sequence[Row], target: float) -> None:
    axes.axhline(1000 * target, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.annotate(
        f"target {1000 * target:g} ms", (0, 1000 * target), xycoords=("axes fraction", "data"),
        xytext=(4, 3), textcoords="offset points", color="#777777", fontsize=8,
    )  # fmt: skip
    low = bracket(rows, target).low
    if low is not None:
        axes.axvline(low.level, color=BLUE, linewidth=1, zorder=0)
        right = low.level < 0.4 * max(row.level for row in rows)
        axes.annotate(
            f"{low.level:g} images/s hold it", (low.level, 1), xycoords=("data", "axes fraction"),
            xytext=(5 if right else -5, -9), textcoords="offset points", color=BLUE, fontsize=8,
            ha="left" if right else "right",
        )  # fmt: skip


def _line(axes: Axes, rows: Sequence[Row], levels: Sequence[float], values: Sequence[float], color: str) -> None:
    axes.plot(levels, values, color=color, linewidth=1.6)
    for row, level, value in zip(rows, levels, values, strict=True):
        axes.plot(level, value, "o", markersize=5.5, color=color, markerfacecolor=color if row.stable else "white")


def _scale(axes: Axes, rows: Sequence[Row], closed: bool) -> None:
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.8)
    axes.set_axisbelow(True)
    if closed:
        levels = [row.level for row in rows]
        axes.set_xscale("log", base=2)
        axes.set_xlim(levels[0] / 1.3, levels[-1] * 1.6)
        axes.set_xticks(levels, [f"{level:g}" for level in levels])
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(left=0)
        axes.set_xlim(right=1.1 * max(row.level for row in rows))


def _label(axes: Axes, x: float, y: float, text: str, color: str, up: int) -> None:
    axes.annotate(
        text, (x, y), xytext=(7, up), textcoords="offset points", va="center", fontsize=8,
        color=color if color != LIGHT_BLUE else INK, annotation_clip=False,
    )  # fmt: skip
