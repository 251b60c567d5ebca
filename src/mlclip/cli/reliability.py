"""The picture of `mlclip eval --reliability`: how often labels are true at each score."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest  # type: ignore[import-untyped]

from mlclip.calibration import BINS, bin_of
from mlclip.errors import DataError

COLUMNS, MOST = 6, 35
"""Small panels per row, and how many classes are drawn: those with the most images."""
BINS_OF_CLASS = 5


def draw_reliability(
    path: Path, targets: npt.NDArray[np.uint8], scores: npt.NDArray[np.float32], labels: tuple[str, ...]
) -> None:
    """Draw all pairs, then each class, to a .png, .svg or .pdf; targets and scores are [R, N].

    Scores that are probabilities lie on the diagonal. Bars are 95 % intervals (Wilson 1927): few images say little.
    Raises DataError for a file that cannot be written.
    """
    positives = targets.sum(axis=0)
    chosen = [int(n) for n in np.argsort(-positives, kind="stable")[:MOST] if positives[n]]
    rows = math.ceil((1 + len(chosen)) / COLUMNS)
    figure = Figure(figsize=(2 * COLUMNS, 2 * rows + 0.4), layout="constrained")
    first, *others = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).flat
    _panel(first, "all labels", targets.ravel(), scores.ravel(), BINS)
    for axes, n in zip(others, chosen, strict=False):
        _panel(axes, f"{labels[n]} ({positives[n]:,})", targets[:, n], scores[:, n], BINS_OF_CLASS)
    for axes in others[len(chosen) :]:
        axes.set_axis_off()
    figure.supxlabel("score", fontsize=9)
    figure.supylabel("share of true labels", fontsize=9)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _panel(axes: Axes, title: str, truth: npt.NDArray[np.uint8], scores: npt.NDArray[np.float32], bins: int) -> None:
    placed = bin_of(scores, bins)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    for number in np.unique(placed):
        inside = placed == number
        test = binomtest(int(truth[inside].sum()), int(inside.sum()))
        score, share = scores[inside].mean(), test.statistic
        axes.vlines(score, *test.proportion_ci(method="wilson"), color="#56B4E9", linewidth=1.5)
        axes.plot(score, share, "o", markersize=4, color="#0072B2")
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.tick_params(labelbottom=True)
