"""How similar are duplicates? A logistic regression on pairs of images that were labelled as the same or not.

The two similarities where it gives 1 % and 99 % are the thresholds of near-duplicate removal (document 002, 3.1.2).
Pairs are labelled by the `group` field of a data set, by a CSV file with the columns a, b and same, or by a person who
is asked until both thresholds are steady.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mlclip.data.dataset import Item, Progress, quiet
from mlclip.data.similarity import BLOCK, Embeddings, Index, Vector, cosines, nearest
from mlclip.data.text_files import columns, relative_to
from mlclip.errors import DataError

CHANCES = (0.01, 0.99)
STRENGTH = 1e4
"""Inverse of the slope's L2 penalty: weak, but it keeps the slope finite where one similarity separates all pairs."""

ASK_AT = (0.5, 0.176, 0.824)
"""Chances at which pairs are asked about in turn: the last two tell most about both parameters of a logistic curve
(D-optimal design: Abdelbasit and Plackett 1983, https://doi.org/10.1080/01621459.1983.10477936). Document 002 draws
the pairs at random."""

_ANSWERS = {"1": True, "y": True, "yes": True, "true": True, "0": False, "n": False, "no": False, "false": False}
_COLUMNS = ("a", "b", "same")


class Points(NamedTuple):
    """Cosine similarities from which a pair is a suspected and a certain duplicate."""

    suspected: float
    certain: float


@dataclass(frozen=True)
class Pair:
    """Two image files and whether they show the same picture."""

    a: Path
    b: Path
    same: bool


@dataclass(frozen=True)
class Curve:
    """Chance that two images are duplicates, as a logistic function of their cosine similarity."""

    slope: float
    intercept: float

    def similarity_at(self, chance: float) -> float:
        """The similarity that has this chance."""
        return float((np.log(chance / (1 - chance)) - self.intercept) / self.slope)

    def points(self) -> Points:
        """The similarities of 1 % and 99 %."""
        return Points(*map(self.similarity_at, CHANCES))


def fit_curve(similarities: npt.ArrayLike, same: npt.ArrayLike) -> Curve:
    """Fit the logistic regression: L2 penalty of 1e-4 on the slope of the standardised similarity.

    Similarities [n] are cosines of pairs; `same` [n] says whether they are duplicates. Raises DataError if all answers
    are equal, or if duplicates are not the more similar ones.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # slow to load

    x, y = np.asarray(similarities, dtype=np.float64), np.asarray(same, dtype=np.bool_)
    if not y.any() or y.all() or np.ptp(x) == 0:
        missing = "duplicates" if not y.any() else "other pairs" if y.all() else "unequal similarities"
        raise DataError(f"{len(y):,} labelled pairs, but no {missing} among them: label more with `mlclip data pairs`")
    centre, spread = x.mean(), x.std()
    fitted = LogisticRegression(C=STRENGTH, tol=1e-8, max_iter=1000).fit(((x - centre) / spread)[:, None], y)
    slope = float(fitted.coef_[0, 0] / spread)
    if slope <= 0:
        raise DataError("pairs labelled as duplicates are not more similar than the others: check the labels")
    return Curve(slope, float(fitted.intercept_[0]) - slope * float(centre))


def group_answers(items: Sequence[Item], index: Index, similarities: Vector) -> tuple[Vector, npt.NDArray[np.bool_]]:
    """Label the pair of each image and its most similar one (see `nearest`) by their groups, no pair twice.

    Returns similarities [n] and answers [n] of the pairs where both have a group.
    """
    pairs, found = nearest_pairs(index, similarities)
    known = [all(items[row].group is not None for row in pair) for pair in pairs.tolist()]
    same = [items[a].group == items[b].group for a, b in pairs[known].tolist()]
    return found[known], np.array(same, dtype=np.bool_)


def nearest_pairs(index: Index, similarities: Vector) -> tuple[Index, Vector]:
    """Each image with its most similar image, no pair twice: rows, int64 [n, 2], and similarities [n]."""
    rows = np.flatnonzero(index >= 0)
    ordered = np.sort(np.stack([rows, index[rows]], axis=1), axis=1)
    pairs, first = np.unique(ordered, axis=0, return_index=True)
    return pairs, similarities[rows[first]]


def ask_until_steady(
    candidates: Vector,
    answers: Mapping[int, bool],
    ask: Callable[[int, Points | None], bool | None],
    *,
    tolerance: float = 0.002,
    steady: int = 10,
) -> dict[int, bool]:
    """Ask about one pair after another until both points are steady, or no candidate is left; return all answers.

    Candidates are the similarities [n] of the pairs that can be asked about; `answers`, by candidate, are known.
    `ask` gets a candidate and the points so far; None stops. Points are steady if neither moved by more than
    `tolerance` over the last `steady` answers.
    """
    known = dict(answers)
    history: list[Points] = []
    while len(known) < len(candidates):
        curve = _curve(candidates, known)
        if curve:
            history.append(curve.points())
            recent = np.array(history[-steady - 1 :])
            if len(recent) > steady and (np.ptp(recent, axis=0) <= tolerance).all():
                break
        row = _next(candidates, known, curve)
        answer = ask(row, history[-1] if curve else None)
        if answer is None:
            break
        known[row] = answer
    return known


def read_pairs(path: Path) -> list[Pair]:
    """Read a CSV file with the columns a, b (image files, relative to the CSV file) and same (y or n)."""
    return [_pair(path.parent, where, *map(str.strip, values)) for where, values in columns(path, *_COLUMNS)]


def points_from_groups(
    items: Sequence[Item], rows: Embeddings, block: int = BLOCK, on_progress: Progress = quiet
) -> Points:
    """Thresholds from the pairs of each image and its most similar one: duplicates where their group is the same."""
    index, best = nearest(rows, block, on_progress)
    similarities, same = group_answers(items, index, best)
    try:
        return fit_curve(similarities, same).points()
    except DataError as error:
        raise DataError(f"groups do not tell what a duplicate is ({error}), or give --duplicates LOW HIGH") from error


def points_from_pairs(path: Path, embed: Callable[[Sequence[Path]], Embeddings]) -> Points:
    """The thresholds from a CSV file of labelled pairs."""
    pairs = read_pairs(path)
    if not pairs:
        raise DataError(f"{path}: it holds no pair: label some with `mlclip data pairs`")
    left, right = embed([pair.a for pair in pairs]), embed([pair.b for pair in pairs])
    similarities = cosines(left[slice(None)], right[slice(None)])
    return fit_curve(similarities, [pair.same for pair in pairs]).points()


def append_pair(pair: Pair, path: Path) -> None:
    """Add one answer to a CSV file, which is created if it is missing."""
    new, name = not path.exists(), relative_to(path.parent)
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(_COLUMNS)
        writer.writerow([name(pair.a.resolve()), name(pair.b.resolve()), "y" if pair.same else "n"])


def _pair(folder: Path, where: str, a: str, b: str, same: str) -> Pair:
    if not a or not b or same.lower() not in _ANSWERS:
        raise DataError(f"{where}: give two image files and y or n, not {a!r}, {b!r} and {same!r}")
    return Pair(folder / a, folder / b, _ANSWERS[same.lower()])


def _curve(candidates: Vector, known: Mapping[int, bool]) -> Curve | None:
    try:
        return fit_curve(candidates[list(known)], list(known.values()))
    except DataError:
        return None


def _next(candidates: Vector, known: Mapping[int, bool], curve: Curve | None) -> int:
    """The open candidate that tells most: nearest to a chance of interest, or while there is no curve, an extreme."""
    opened = np.setdiff1d(np.arange(len(candidates)), list(known))
    if curve:
        wanted = curve.similarity_at(ASK_AT[len(known) % len(ASK_AT)])
        return int(opened[np.abs(candidates[opened] - wanted).argmin()])
    return int(opened[candidates[opened].argmin() if any(known.values()) else candidates[opened].argmax()])
