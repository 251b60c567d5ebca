"""The figure of a run: latency over the number of classes, for the head alone and with the encoder."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlclip_bench.kit.figures import BLUE, GREY, INK, caption, draw, log_scale
from mlclip_bench.kit.intervals import Estimate, geometric_mean
from mlclip_bench.scaling.derive import Derived

NAME = "scaling"
FAINT = "#B5B5B5"
COLOURS = {
    "mld, K = N": "#8CBFE6",
    "mld": BLUE,
    "decoder with self-attention": "#D55E00",
    "powerset": "#CC79A7",
    "sigmoid": "#555555",
    "zeroshot": "#009E73",
}
"""Colours of series by the start of their titles; grey for others."""
_GAP = 0.055  # smallest distance between two labels, as a share of the axis


def draw_figures(derived: Derived, batch: int) -> list[Path]:
    """Draw one batch size: `scaling.png` and `scaling.svg`."""
    return draw({NAME: lambda: scaling_figure(derived, batch)}, derived.folder)


def scaling_figure(derived: Derived, batch: int) -> Figure:
    """Latency of the head alone on the left, throughput with the encoder on the right."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    alone, whole = figure.subplots(1, 2)
    _draw_alone(alone, derived, batch)
    _draw_whole(whole, derived, batch)
    asked, encoder = derived.asked, derived.asked["encoder"]
    caption(
        figure,
        f"{derived.setting['machine']}, through {asked['through']}, batch {batch}; "
        f"encoder {encoder['tag']}, T = {encoder['T']}, E = {encoder['W']}, 2 decoder layers. "
        "Bars: 95 % intervals. Hollow: not stable.",
        size=7.5,
    )
    return figure


def _draw_alone(axes: Axes, derived: Derived, batch: int) -> None:
    ends: list[tuple[str, float, float, str]] = []
    for title in derived.titles:
        points = {n: geometric_mean(part).scaled(1e3) for n, part in derived.rounds(title, batch).items()}
        stable = {n: derived.spread(title, n, batch).stable for n in points}
        ends += _line(axes, title, points, stable)
    encoder = derived.encoder(batch)
    axes.set_title("head alone: milliseconds per batch", loc="left")
    axes.set(xscale="log")
    log_scale(axes)
    if encoder is not None:
        axes.axhline(encoder.latency.value, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(
            "the encoder", (0, encoder.latency.value), xycoords=("axes fraction", "data"),
            xytext=(3, 3), textcoords="offset points", fontsize=8,
        )  # fmt: skip
    _guides(axes, derived)
    _finish(axes, derived, ends)


def _draw_whole(axes: Axes, derived: Derived, batch: int) -> None:
    ends: list[tuple[str, float, float, str]] = []
    for title in derived.titles:
        wholes = {n: derived.end_to_end(key, batch) for n, key in derived.series[title].items()}
        points = {n: _rate(whole, batch) for n, whole in wholes.items() if whole is not None}
        stable = {n: derived.spread(title, n, batch).stable for n in points}
        ends += _line(axes, title, points, stable)
    axes.set_title("encoder and head: images per second", loc="left")
    axes.set(xscale="log")
    axes.set_ylim(bottom=0)
    _finish(axes, derived, ends)


def _rate(milliseconds: Estimate, batch: int) -> Estimate:
    ends = [1e3 * batch / value if value else math.inf for value in (milliseconds.high, milliseconds.low)]
    return Estimate(1e3 * batch / milliseconds.value, *ends)


def _line(
    axes: Axes, title: str, points: dict[int, Estimate], stable: dict[int, bool]
) -> list[tuple[str, float, float, str]]:
    if not points:
        return []
    colour = next((colour for name, colour in COLOURS.items() if title.startswith(name)), GREY)
    style = "--" if title.startswith("mld, K = 1") else "-"
    sizes = sorted(points)
    values = [points[n].value for n in sizes]
    axes.plot(sizes, values, color=colour, linewidth=1.6, linestyle=style)
    for n in sizes:
        point = points[n]
        if math.isfinite(point.high) and point.low > 0:
            axes.plot([n, n], [point.low, point.high], color=colour, linewidth=1)
        axes.plot(n, point.value, "o", color=colour if stable[n] else "white", markeredgecolor=colour, markersize=4)
    return [(title, sizes[-1], values[-1], colour)]


def _guides(axes: Axes, derived: Derived) -> None:
    """Faint lines of slope 0, 1 and 2 through one point: the claimed growth."""
    smallest, largest = min(derived.asked["classes"]), max(derived.asked["classes"])
    if smallest == largest:
        return
    low, high = axes.get_ylim()
    for slope, name in ((0, "O(1)"), (1, "O(N)"), (2, "O(N²)")):
        start = low * 1.3
        end = start * (largest / smallest) ** slope
        cut = largest if end <= high or not slope else smallest * (high / start) ** (1 / slope)
        axes.plot([smallest, cut], [start, min(end, high)], color=FAINT, linewidth=0.8, linestyle=":", zorder=0)
        axes.annotate(name, (cut, min(end, high)), color="#888888", fontsize=7, ha="right", va="bottom")
    axes.set_ylim(low, high)


def _finish(axes: Axes, derived: Derived, ends: list[tuple[str, float, float, str]]) -> None:
    """Ticks at the measured N, and each line's name at its end, moved apart where names would overlap."""
    sizes = derived.asked["classes"]
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.minorticks_off()
    axes.set_xlabel("classes N")
    axes.set_xlim(min(sizes) * 0.9, max(sizes) * 1.1)
    to_share = axes.transData + axes.transAxes.inverted()
    placed = sorted((to_share.transform((x, y))[1], to_share.transform((x, y))[0], title, c) for title, x, y, c in ends)
    heights = _apart(np.array([height for height, *_ in placed]))
    for (height, x, title, colour), at in zip(placed, heights, strict=True):
        axes.annotate(
            title, (x, height), xytext=(1.03, at), xycoords="axes fraction", textcoords="axes fraction",
            color=colour, fontsize=7.5, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3,
                "relpos": (0, 0.5)},
        )  # fmt: skip


def _apart(heights: Any) -> Any:
    """Move sorted heights up so that none is nearer than `_GAP` to the one below, then all down below the top."""
    moved = heights.astype(float).copy()
    for place in range(1, len(moved)):
        moved[place] = max(moved[place], moved[place - 1] + _GAP)
    excess = max(0.0, moved[-1] - 1.0) if len(moved) else 0.0
    return moved - excess
