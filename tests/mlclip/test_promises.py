"""Promises of precision and recall hold as often as they say, on data drawn again and again."""

import numpy as np
import pytest

from mlclip.promises import Promise, keep_promises, promise_lines

REDRAWS, IMAGES = 500, 400


def rising(score):
    """How likely an image with a score has the label: a true curve of the simulation."""
    return 1 / (1 + np.exp(-(score - 0.6) * 15))


def level_below_the_best(score):
    """Precision falls below 0.9 early and then stays near it, so a search that goes on finds it by chance."""
    return np.where(score > 0.93, 1, 0.88)


GRID = np.linspace(0, 1, 20_001)


def true_figure(chance, figure, threshold):
    weights = chance(GRID)
    return (
        weights[threshold <= GRID].mean() if figure == "precision" else weights[threshold <= GRID].sum() / weights.sum()
    )


@pytest.mark.parametrize(
    ("chance", "figure", "often"),
    [(rising, "precision", 0.8), (level_below_the_best, "precision", 0.9), (rising, "recall", 1.0)],
)
def test_a_promise_fails_in_one_of_ten_redraws_at_most(chance, figure, often):
    draw, promise = np.random.default_rng(0), Promise(figure, 0.9, 0.9)
    scores = draw.random((IMAGES, REDRAWS), dtype=np.float32)
    targets = draw.random(scores.shape) < chance(scores)
    limits, reasons = keep_promises(targets, scores, np.full(REDRAWS, 0.5, np.float32), promise)
    made = [limit for limit, reason in zip(limits, reasons, strict=True) if reason is None]
    failed = sum(true_figure(chance, figure, limit) < 0.9 for limit in made)
    assert len(made) >= often * REDRAWS, "it is worth something"
    assert failed / REDRAWS <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / REDRAWS)
    assert failed > 0, "no failure in 500 would be needlessly strict"


def test_precision_is_not_promised_where_it_is_always_too_low():
    draw = np.random.default_rng(1)
    scores = draw.random((IMAGES, REDRAWS), dtype=np.float32)
    targets = draw.random(scores.shape) < 0.9  # a little more would be enough
    _, reasons = keep_promises(targets, scores, np.zeros(REDRAWS, np.float32), Promise("precision", 0.9001, 0.9))
    assert reasons.count(None) / REDRAWS <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / REDRAWS)
    assert "its precision is too low" in reasons


def test_few_positives_cannot_promise_and_keep_their_threshold():
    promise = Promise("recall", 0.9, 0.9)
    assert promise.needed == 22, "0.9 to the power of 22 is below 0.1"
    targets = np.zeros((60, 3), np.uint8)
    targets[:21, 0] = targets[:22, 1] = targets[:50, 2] = 1
    scores = np.linspace(1, 0, 60, dtype=np.float32)[:, None].repeat(3, axis=1)
    limits, reasons = keep_promises(targets, scores, np.float32([0.3, 0.3, 0.3]), promise)
    assert reasons == ["21 positives, 22 needed", None, None]
    assert limits[0] == np.float32(0.3)
    assert scores[22, 1] < limits[1] < scores[21, 1], "all 22 are selected, and nothing else"
    assert (scores[:, 2] >= limits[2]).sum() == 49, "of 50, one may be missed, since two are with 0.112"


def test_equal_scores_are_tested_together():
    promise = Promise("precision", 0.5, 0.9)
    truth, scores = np.array([True] * 10 + [False] * 30), np.float32([0.9] * 10 + [0.9] * 30)
    assert promise.threshold(truth, scores) is None
    assert promise.threshold(truth, np.float32([0.9] * 10 + [0.1] * 30)) == np.float32(0.5)


def test_what_is_said_of_a_promise():
    classes = {"cat": None, "dog": "9 positives, 42 needed", "fox": "its recall is too low"}
    assert promise_lines({"figure": "recall", "level": 0.8, "confidence": 0.9, "classes": classes}) == [
        "recall of at least 0.8 is promised for 1 of 3 classes, with confidence 0.9",
        "cannot be promised: dog (9 positives, 42 needed), fox (its recall is too low)",
    ]
    assert promise_lines(None) == []
