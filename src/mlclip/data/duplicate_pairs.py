"""From which similarity on are two images duplicates? A logistic regression on pairs that somebody labelled.

The two points where it gives 1 % and 99 % are the thresholds of near-duplicate removal (document 002, 3.1.2). Pairs are
answered by the `group` field of a data set, by a CSV file with the columns a, b and same, or by a person who is asked
until the points stand still.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from mlclip.data.dataset import Item
from mlclip.data.similarity import Embeddings, Index, Vector, cosines
from mlclip.errors import DataError

CHANCES = (0.01, 0.99)
STRENGTH = 1e4
"""Inverse of the L2 penalty on the slope: weak, but it keeps the slope finite where one similarity parts all pairs."""

ASK_AT = (0.5, 0.176, 0.824)
"""Chances at which pairs are asked in turn: the last two tell most about both parameters of a logistic curve (the
D-optimal design: Abdelbasit and Plackett 1983, https://doi.org/10.1080/01621459.1983.10477936)."""

_ANSWERS = {"1": True, "y": True, "yes": True, "true": True, "0": False, "n": False, "no": False, "false": False}
_COLUMNS = ["a", "b", "same"]


class Points(NamedTuple):
    """Cosine similarities from which on a pair is a suspected and a certain duplicate."""

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
    """Chance of being duplicates as a logistic function of the cosine similarity."""

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

    Args:
        similarities: [n] cosine similarities of pairs.
        same: [n] whether they are duplicates; both answers must occur.

    Raises:
        DataError: there is no curve: one answer only, or duplicates are not the more similar ones.
    """
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
    """Label each image's pair with its most similar image by their groups; images without a group are passed over.

    Args:
        items: R items.
        index: int [R]: the row of the most similar other image.
        similarities: [R]: how similar it is.

    Returns:
        Similarities [n] and answers [n] of the pairs where both have a group, no pair twice.
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
    """Ask about one pair after the other until both points have stood still for a while.

    Args:
        candidates: [n] similarities of the pairs that can be asked about.
        answers: what is known already, by candidate.
        ask: called with a candidate and the points so far; None stops.
        tolerance: neither point may have moved more than this over the last `steady` answers.
        steady: answers in a row.

    Returns:
        All answers, the given ones included; asking also ends when no candidate is left.
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
    """Read a CSV file with the columns a, b (image files, relative to the CSV file) and same (y or n).

    Raises:
        DataError: it cannot be read, or a line is wrong.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not set(_COLUMNS) <= set(reader.fieldnames or ()):
                raise DataError(f"{path}: the first line must name the columns a, b and same")
            return [_pair(path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error


def points_from_pairs(path: Path, embed: Callable[[Sequence[Path]], Embeddings]) -> Points:
    """The thresholds that a CSV file of labelled pairs tells.

    Raises:
        DataError: the file cannot be read, or its pairs do not tell.
    """
    pairs = read_pairs(path)
    if not pairs:
        raise DataError(f"{path}: no pair is in it: label some with `mlclip data pairs`")
    left, right = embed([pair.a for pair in pairs]), embed([pair.b for pair in pairs])
    similarities = cosines(left[slice(None)], right[slice(None)])
    return fit_curve(similarities, [pair.same for pair in pairs]).points()


def append_pair(pair: Pair, path: Path) -> None:
    """Add one answer to a CSV file, which is made if it is not there."""
    new = not path.exists()
    base = path.parent.resolve()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(_COLUMNS)
        names = [Path(os.path.relpath(image.resolve(), base)).as_posix() for image in (pair.a, pair.b)]
        writer.writerow([*names, "y" if pair.same else "n"])


def _pair(path: Path, line: int, row: Mapping[str, str | None]) -> Pair:
    a, b, same = ((row[name] or "").strip() for name in _COLUMNS)
    if not a or not b or same.lower() not in _ANSWERS:
        raise DataError(f"{path}:{line}: give two image files and y or n, not {a!r}, {b!r} and {same!r}")
    return Pair(path.parent / a, path.parent / b, _ANSWERS[same.lower()])


def _curve(candidates: Vector, known: Mapping[int, bool]) -> Curve | None:
    try:
        return fit_curve(candidates[list(known)], list(known.values()))
    except DataError:
        return None


def _next(candidates: Vector, known: Mapping[int, bool], curve: Curve | None) -> int:
    """The open candidate nearest to a point of interest; without a curve the most, else the least similar one."""
    opened = np.setdiff1d(np.arange(len(candidates)), list(known))
    if curve is None:
        wanted = np.inf if not any(known.values()) else -np.inf
        return int(opened[candidates[opened].argmax() if wanted > 0 else candidates[opened].argmin()])
    wanted = curve.similarity_at(ASK_AT[len(known) % len(ASK_AT)])
    return int(opened[np.abs(candidates[opened] - wanted).argmin()])
