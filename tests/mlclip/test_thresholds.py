"""Thresholds against a search that tries everything, and in float32 as the served model compares them."""

import numpy as np
import pytest

from mlclip.thresholds import best_threshold, select, tune_thresholds


def f_beta(targets, selected, beta):
    hits = np.sum(targets * selected)
    return (1 + beta**2) * hits / (beta**2 * targets.sum() + selected.sum())


def brute_force(targets, scores, beta):
    """The best F-beta of all cuts, and minus the fewest selections that reach it."""
    cuts = [(f_beta(targets, scores >= cut, beta), -np.sum(scores >= cut)) for cut in np.unique(scores)]
    return max(cuts)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("levels", [3, 10, None])
def test_no_cut_is_better_and_ties_choose_the_fewest(beta, levels):
    random = np.random.default_rng(7)
    for _ in range(60):
        size = int(random.integers(1, 60))
        targets = random.random(size) < 0.3
        targets[random.integers(size)] = True
        scores = random.random(size, dtype=np.float32)
        if levels:
            scores = np.floor(scores * levels) / np.float32(levels)
        chosen = scores >= best_threshold(targets, scores, beta=beta)
        best, fewest = brute_force(targets, scores, beta)
        assert f_beta(targets, chosen, beta) == best
        assert chosen.sum() == -fewest


def test_neighbouring_float32_scores_are_told_apart():
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    threshold = best_threshold(np.array([0, 1]), np.array([low, high]))
    assert threshold.dtype == np.float32
    assert select(np.array([low, high]), threshold).tolist() == [False, True]


@pytest.mark.parametrize("low", [0.0, 1e-38, 0.1, 0.99999, 1.0, 7.7e30])
def test_the_threshold_selects_the_same_in_float32_for_any_gap(low):
    low = np.float32(low)
    high = low
    for _ in range(20):
        high = np.nextafter(high, np.float32(np.inf))
        scores = np.array([high, low, high, low], dtype=np.float32)
        threshold = best_threshold(np.array([1, 0, 1, 0]), scores)
        assert low < threshold <= high


def test_the_threshold_stands_halfway_to_the_next_lower_score():
    assert best_threshold(np.array([1, 0, 0]), np.array([0.9, 0.5, 0.1])) == np.float32(0.7)


def test_where_everything_is_selected_the_lowest_score_is_the_threshold():
    assert best_threshold(np.array([1, 0, 1]), np.array([0.9, 0.5, 0.25])) == np.float32(0.25)


def test_float64_scores_are_cut_as_the_float32_they_are_served_as():
    scores = np.array([0.5, 0.5 + 1e-12])  # one float32
    assert select(scores, best_threshold(np.array([0, 1]), scores)).tolist() == [True, True]


def test_a_score_at_the_threshold_is_selected():
    assert select(np.array([[0.4, 0.5]], dtype=np.float32), np.array([0.4, 0.6], dtype=np.float32)).tolist() == [
        [True, False]
    ]


def graded(positives, size=200):
    """Targets and scores [size, N] with so many true images a class, whose scores are a little higher."""
    random = np.random.default_rng(3)
    targets = np.zeros((size, len(positives)), dtype=np.uint8)
    for n, count in enumerate(positives):
        targets[random.permutation(size)[:count], n] = 1
    return targets, random.random(targets.shape, dtype=np.float32) + targets * np.float32(0.3)


def test_without_shrinking_each_class_has_its_own_best():
    targets, scores = graded([100, 60, 3, 0])
    thresholds = tune_thresholds(targets, scores, mode="per_class", beta=2, shrink=0)
    shared = best_threshold(targets.ravel(), scores.ravel(), beta=2)
    assert thresholds.dtype == np.float32
    assert thresholds.tolist() == [best_threshold(targets[:, n], scores[:, n], beta=2) for n in range(3)] + [shared]
    assert len(set(thresholds.tolist())) == 4
    assert tune_thresholds(targets, scores, mode="global", beta=2).tolist() == [shared] * 4


def test_the_fewer_images_the_nearer_to_the_global_threshold():
    targets, scores = graded([100, 20, 1, 0])
    shared = float(best_threshold(targets.ravel(), scores.ravel()))
    own = [float(best_threshold(targets[:, n], scores[:, n])) for n in range(3)]
    thresholds = tune_thresholds(targets, scores, shrink=20)
    expected = [(100 * own[0] + 20 * shared) / 120, (own[1] + shared) / 2, (own[2] + 20 * shared) / 21, shared]
    assert np.allclose(thresholds, expected, rtol=1e-6)
    assert len(set(own)) == 3
    assert np.allclose(tune_thresholds(targets, scores, shrink=1e9), shared, rtol=1e-5)


def test_the_order_of_the_images_does_not_matter():
    random = np.random.default_rng(11)
    targets = random.integers(0, 2, (50, 3))
    scores = random.integers(0, 9, (50, 3)).astype(np.float32)
    order = random.permutation(50)
    assert (tune_thresholds(targets, scores) == tune_thresholds(targets[order], scores[order])).all()


@pytest.mark.parametrize(
    ("targets", "scores", "options", "message"),
    [
        (np.ones((2, 2)), np.ones((2, 3)), {}, r"\[2, 2\] but scores are \[2, 3\]"),
        (np.ones(2), np.ones(2), {}, r"must be \[R, N\]"),
        (np.ones((2, 2)), np.ones((2, 2), dtype=np.float16), {}, "float32 or float64, not float16"),
        (np.ones((1, 2)), np.array([[0.1, np.nan]]), {}, "NaN"),
        (np.zeros((2, 2)), np.ones((2, 2)), {}, "no positive target"),
        (np.ones((2, 2)), np.ones((2, 2)), {"beta": 0}, "beta must be positive"),
        (np.ones((2, 2)), np.ones((2, 2)), {"mode": "each"}, "per_class, global"),
        (np.ones((2, 2)), np.ones((2, 2)), {"shrink": -1}, "0 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(targets, scores, options, message):
    with pytest.raises(ValueError, match=message):
        tune_thresholds(targets, scores, **options)
