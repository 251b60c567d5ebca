"""Calibrated probabilities: an affine map of each class's logit (Platt 1999), fitted on the validation split.

Slopes are positive, so within a class no two images change places, and thresholds move along. A calibration is a
float32 array [2, N]: slopes and offsets, in class order.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

Floats = npt.NDArray[np.float32]
EPS = 1e-6
"""Scores of heads without logits are kept this far from 0 and 1 before their logit is taken."""
BINS = 15
"""Of the expected calibration error."""
STRENGTH = 10.0
"""Weight of the penalty that holds a class's map near that of all classes; chosen for openclip and scenes."""


def fit_calibration(targets: npt.NDArray[np.generic], outputs: Floats, kind: str) -> Floats:
    """Fit a calibration to a head's first output [R, N], which is `kind`: `logits` or `scores`; targets are 0 or 1.

    A class's map is shrunk towards one map of all classes by a Gaussian prior around it, which counts for less the more
    positives and doubtful negatives a class has. That map itself starts from the one that changes nothing.
    """
    logits = torch.from_numpy(to_logits(outputs, kind)).double()
    truth = torch.from_numpy(targets.astype(np.float64))
    mean, spread = logits.mean(), logits.std().clamp(min=EPS)
    units = (logits - mean) / spread
    shared = _fit(units, truth, torch.stack([spread.log(), mean])[:, None], 1.0)
    own = _fit(units, truth, shared.expand(2, logits.shape[1]), STRENGTH)
    slope = own[0].exp() / spread
    return torch.stack([slope, own[1] - slope * mean]).float().numpy()


def calibrated(outputs: Floats, kind: str, maps: Floats) -> Floats:
    """Calibrated scores, float32 [R, N], of a head's first output [R, N], which is `kind`: `logits` or `scores`."""
    logits = torch.from_numpy(to_logits(outputs, kind) * maps[0] + maps[1])
    return logits.sigmoid().numpy()


def cross_validated(targets: npt.NDArray[np.generic], outputs: Floats, kind: str) -> Floats:
    """Calibrated scores of R images, each from a calibration that was fitted to the other four fifths of them."""
    scores = np.empty_like(outputs, dtype=np.float32)
    fold = np.random.default_rng(0).permutation(len(outputs)) % 5
    for number in range(5):
        held = fold == number
        scores[held] = calibrated(outputs[held], kind, fit_calibration(targets[~held], outputs[~held], kind))
    return scores


def estimated_prevalence(scores: Floats, known: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """How frequent each class is, [N], among images without labels, of calibrated scores [R, N].

    `known` [N] is the prevalence where the scores were calibrated. Expectation and maximisation take turns (Saerens,
    Latinne and Decaestecker 2002, https://doi.org/10.1162/089976602753284446), on the assumption that images of a class
    look alike here and there.
    """
    values = scores.astype(np.float64).clip(EPS, 1 - EPS)
    before = known.astype(np.float64).clip(EPS, 1 - EPS)
    evidence, found = values / (1 - values) * (1 - before) / before, before
    for _ in range(1000):
        odds = evidence * found / (1 - found)
        last, found = found, (odds / (1 + odds)).mean(axis=0).clip(EPS, 1 - EPS)
        if np.abs(found - last).max() < EPS:
            break
    return found


def adjusted(maps: Floats, before: npt.NDArray[np.floating[Any]], after: npt.NDArray[np.floating[Any]]) -> Floats:
    """A calibration for another prevalence [N] than the one it was fitted at: its offsets move by the log odds."""
    odds = [np.log(share / (1 - share)) for share in (np.clip(each, EPS, 1 - EPS) for each in (before, after))]
    moved: Floats = (maps + np.stack([np.zeros(len(before)), odds[1] - odds[0]])).astype(np.float32)
    return moved


def moved_thresholds(thresholds: Floats, old: Floats | None, new: Floats | None) -> Floats:
    """The thresholds [N] that select under one calibration what these select under another; None: under none."""
    if old is new:
        return thresholds
    (slope, offset), (new_slope, new_offset) = ((1, 0) if maps is None else maps for maps in (old, new))
    ratio = new_slope / slope
    return calibrated(thresholds, "scores", np.stack([ratio, new_offset - offset * ratio]))


def grown(maps: Floats | None, classes: int) -> Floats | None:
    """A calibration with further classes after its own, which get its median map."""
    if maps is None:
        return None
    return np.pad(maps, ((0, 0), (0, classes)), mode="median")


def bin_of(scores: npt.NDArray[np.floating[Any]], bins: int = BINS) -> npt.NDArray[np.int64]:
    """Which of some bins of equal width each score in [0, 1] is in."""
    return np.minimum((scores * bins).astype(np.int64), bins - 1)


def class_reliability(
    targets: npt.NDArray[np.generic], scores: npt.NDArray[np.floating[Any]]
) -> list[dict[str, float]]:
    """`brier` and `ece` of each of N classes, as `reliability` has them of all pairs; arguments as there."""
    values = scores.astype(np.float64)
    gaps, bins = values - targets.astype(np.float64), bin_of(values)
    sums = (np.bincount(column, gap, BINS) for column, gap in zip(bins.T, gaps.T, strict=True))
    briers = (gaps**2).mean(axis=0)
    return [
        {"brier": float(brier), "ece": float(np.abs(each).sum() / len(gaps))}
        for brier, each in zip(briers, sums, strict=True)
    ]


def reliability(targets: npt.NDArray[np.generic], scores: npt.NDArray[np.floating[Any]]) -> dict[str, float]:
    """Measure scores [R, N] in [0, 1] as probabilities of targets [R, N], 0 or 1.

    `brier` is their mean squared difference; `log_loss` takes scores as at least 1e-6 away from 0 and 1; `ece`, the
    expected calibration error, is the mean distance of score and frequency in 15 bins of equal width, `ece_low` and
    `ece_high` its 95 % interval by the standard error over 500 redraws of the images.
    """
    truth, values = targets.astype(np.float64), scores.astype(np.float64)
    clipped = values.clip(EPS, 1 - EPS)
    losses = -np.where(truth == 1, np.log(clipped), np.log1p(-clipped))
    gaps = np.zeros((len(truth), BINS))  # sum of score - target per image and bin
    np.add.at(gaps, (np.arange(len(truth))[:, None], bin_of(values)), values - truth)
    draws = np.random.default_rng(0).multinomial(len(truth), np.full(len(truth), 1 / len(truth)), size=500)
    ece, error = (np.abs(sums).sum(axis=-1) / truth.size for sums in (gaps.sum(axis=0), draws @ gaps))
    half = 1.96 * error.std()
    figures = {"brier": ((values - truth) ** 2).mean(), "log_loss": losses.mean()}
    figures |= {"ece": ece, "ece_low": max(ece - half, 0), "ece_high": ece + half}
    return {name: float(value) for name, value in figures.items()}


def to_logits(outputs: Floats, kind: str) -> Floats:
    """Logits of a head's first output: itself, or log(s / (1 - s)) of scores, in float32 as the served graph has it."""
    if kind == "logits":
        return outputs
    scores = outputs.clip(np.float32(EPS), np.float32(1 - EPS))
    logits: Floats = np.log(scores) - np.log(1 - scores)
    return logits


def _fit(logits: Tensor, truth: Tensor, centre: Tensor, strength: float) -> Tensor:
    """Maps, log slope and offset [2, N or 1], of the least cross entropy plus the penalty for leaving the centre."""
    maps = centre.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([maps], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        entropy = binary_cross_entropy_with_logits(logits * maps[0].exp() + maps[1], truth, reduction="sum")
        total: Tensor = entropy + strength / 2 * ((maps - centre) ** 2).sum()
        total.backward()
        return total

    optimizer.step(loss)
    return maps.detach()
