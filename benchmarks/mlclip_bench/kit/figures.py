"""The style of all figures, and how they are drawn and saved.

Blue and grey only, apart from lines that need a colour each, so that colour-blind people see what others see.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from mlclip_bench.kit.files import cannot_write

INK, GREY = "#333333", "#999999"
BLUE, LIGHT_BLUE = "#0072B2", "#56B4E9"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "mlclip",
}


def draw(figures: Mapping[str, Callable[[], Figure]], folder: Path) -> list[Path]:
    """Draw figures in this style; write each as PNG and as SVG, under its name in `figures`; gives the files."""
    with matplotlib.rc_context(STYLE):
        return [file for name, make in figures.items() for file in _save(make(), folder / name)]


def caption(figure: Figure, text: str, size: float = 8) -> None:
    """Write a sentence below a figure, aligned to the left."""
    figure.supxlabel(text, fontsize=size, x=0.01, ha="left")


def log_scale(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers at 1, 2 and 5 of each decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""))


def _save(figure: Figure, path: Path) -> list[Path]:
    files = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # labels come in any script
            figure.savefig(files[0], dpi=160)
            figure.set_layout_engine("none")  # it is laid out already, and that is the slow part
            figure.savefig(files[1], metadata={"Date": None})
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    return files
