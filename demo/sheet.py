"""The demo's picture sheet: test images with the labels people typed and those the head suggests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageOps

from mlclip.data import Item

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

COLUMNS, ROWS, SIDE = 6, 4, 160
RIGHT, WRONG, MISSED = "#1a7f37", "#b35900", "#8c959f"


def draw_sheet(items: Sequence[Item], answers: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a sheet of images, evenly picked, with the selected `labels` and `scores` of their answers, as PNG."""
    figure, axes = pyplot.subplots(ROWS, COLUMNS, figsize=(COLUMNS * 2.1, ROWS * 2.9), dpi=110)
    for axis, n in zip(axes.flat, np.linspace(0, len(items) - 1, COLUMNS * ROWS).astype(int), strict=True):
        with Image.open(items[n].path) as picture:
            axis.imshow(ImageOps.pad(picture, (SIDE, SIDE), color="white"))
        axis.axis("off")
        for line, (text, colour) in enumerate(_captions(items[n].labels, answers[n])[:5]):
            axis.text(0, -0.03 - 0.11 * line, text, transform=axis.transAxes, va="top", fontsize=8, color=colour)
    figure.suptitle("mld on the demo's test images", x=0.02, ha="left", fontsize=13, weight="bold")
    legend = (("suggested, and typed by people", RIGHT), ("suggested only", WRONG), ("typed only", MISSED))
    for n, (text, colour) in enumerate(legend):
        figure.text(0.42 + 0.22 * n, 0.965, f"■ {text}", color=colour, fontsize=9)
    figure.subplots_adjust(left=0.02, right=0.98, top=0.93, bottom=0.1, hspace=0.62, wspace=0.12)
    figure.savefig(path)
    pyplot.close(figure)


def _captions(truth: Sequence[str], answer: dict[str, Any]) -> list[tuple[str, str]]:
    """Lines of text with their colours: suggestions, best first, then what was missed."""
    suggested = [
        (f"{name} {score:.2f}", RIGHT if name in truth else WRONG)
        for name, score in zip(answer["labels"], answer["scores"], strict=True)
    ]
    return suggested + [(name, MISSED) for name in truth if name not in answer["labels"]]
