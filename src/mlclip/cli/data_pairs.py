"""`mlclip data pairs` in a terminal: two pictures side by side in coloured blocks, and y or n."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from mlclip_client.pixels import PixelSpec, to_pixels
from rich.color import Color
from rich.prompt import Prompt
from rich.style import Style
from rich.text import Text

from mlclip.console import console, say
from mlclip.data import Dataset, Points
from mlclip.data.duplicate_pairs import Pair, append_pair, ask_until_steady, nearest_pairs, read_pairs
from mlclip.data.similarity import Index, Vector

PREVIEW = PixelSpec(size=40, interpolation="bicubic", resize_mode="longest", fill=255)


def ask_for_pairs(dataset: Dataset, index: Index, similarities: Vector, answers: Path, tolerance: float) -> None:
    """Ask about images and their most similar ones; every answer is stored at once; `q` stops.

    `index` and `similarities` are those of `nearest`. Pairs in the CSV file `answers` are not asked about again.
    """
    rows, candidates = nearest_pairs(index, similarities)
    paths = [(dataset.items[a].path, dataset.items[b].path) for a, b in rows.tolist()]
    row_of = {frozenset((a.resolve(), b.resolve())): row for row, (a, b) in enumerate(paths)}
    stored = read_pairs(answers) if answers.exists() else []
    found = {row_of.get(frozenset((pair.a.resolve(), pair.b.resolve()))): pair.same for pair in stored}
    known = {row: same for row, same in found.items() if row is not None}

    def ask(row: int, points: Points | None) -> bool | None:
        a, b = paths[row]
        console.print(side_by_side(a, b))
        say(f"{a}\n{b}")
        if points:
            console.print(f"thresholds so far: {points.suspected:.4f} and {points.certain:.4f}")
        answer = Prompt.ask("the same picture?", choices=["y", "n", "q"], console=console)
        if answer == "q":
            return None
        append_pair(Pair(a, b, answer == "y"), answers)
        return answer == "y"

    ask_until_steady(candidates, known, ask, tolerance=tolerance)


def side_by_side(left: Path, right: Path) -> Text:
    """Two pictures as coloured half blocks: 40 columns each, 20 lines."""
    gap = np.full((PREVIEW.size, 2, 3), 255, dtype=np.uint8)
    pixels = np.concatenate([_pixels(left), gap, _pixels(right)], axis=1)
    lines = [_line(pixels[row], pixels[row + 1]) for row in range(0, PREVIEW.size, 2)]
    return Text("\n").join(lines)


def _pixels(path: Path) -> npt.NDArray[np.uint8]:
    return to_pixels(path.read_bytes(), PREVIEW)


def _line(upper: npt.NDArray[np.uint8], lower: npt.NDArray[np.uint8]) -> Text:
    line = Text()
    for top, bottom in zip(upper.tolist(), lower.tolist(), strict=True):
        line.append("▀", Style(color=Color.from_rgb(*top), bgcolor=Color.from_rgb(*bottom)))
    return line
