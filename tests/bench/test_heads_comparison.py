import numpy as np
import pytest
from mlclip_bench.heads.comparison import (
    Comparison,
    compare_methods,
    f_micro,
    intervals,
    mean_average_precision,
)
from mlclip_bench.heads.results import TestScores
from sklearn.metrics import average_precision_score, fbeta_score


def drawn(rng, images=40, classes=5, decimals=1):
    """Targets and coarse scores, so that many tie."""
    targets = (rng.random((images, classes)) < 0.3).astype(np.uint8)
    scores = np.round(0.4 * targets + rng.random(targets.shape), decimals).astype(np.float32)
    return targets, TestScores(scores, rng.random(classes).astype(np.float32))


def noisy(rng, targets, signal, shared):
    scores = signal * targets + shared + 0.3 * rng.normal(size=targets.shape)
    return TestScores(scores.astype(np.float32), np.full(targets.shape[1], signal / 2, dtype=np.float32))


def test_weighted_map_is_scikit_learns_of_the_pictures_drawn_one_by_one():
    rng = np.random.default_rng(0)
    targets, outcome = drawn(rng)
    targets[:, 3] = 0
    targets[:3, 4], targets[3:, 4] = 1, 0
    weights = np.stack([np.bincount(rng.integers(40, size=40), minlength=40) for _ in range(20)])
    weights[0, :3] = 0  # the last class has no true picture in this resample
    expected = []
    for row in weights:
        pictures = np.repeat(np.arange(40), row)
        of_class = [
            average_precision_score(targets[pictures, n], outcome.scores[pictures, n])
            for n in range(5)
            if targets[pictures, n].any()
        ]
        expected.append(np.mean(of_class))
    measured = mean_average_precision(targets, outcome, weights.astype(np.float32))
    np.testing.assert_allclose(measured, expected, atol=1e-6)


def test_blocks_of_positives_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    targets, outcome = drawn(rng)
    weights = rng.integers(0, 3, size=(10, 40)).astype(np.float32)
    whole = mean_average_precision(targets, outcome, weights)
    monkeypatch.setattr("mlclip_bench.heads.comparison._BLOCK", 3)
    np.testing.assert_allclose(mean_average_precision(targets, outcome, weights), whole, rtol=1e-6)


@pytest.mark.parametrize("beta", [1, 2])
def test_weighted_f_beta_is_scikit_learns_of_the_pictures_drawn_one_by_one(beta):
    rng = np.random.default_rng(2)
    targets, outcome = drawn(rng)
    weights = np.stack([np.bincount(rng.integers(40, size=40), minlength=40) for _ in range(10)])
    expected = []
    for row in weights:
        pictures = np.repeat(np.arange(40), row)
        selected = outcome.scores[pictures] >= outcome.thresholds
        expected.append(fbeta_score(targets[pictures], selected, beta=beta, average="micro"))
    measured = f_micro(targets, outcome, weights.astype(np.float32), beta)
    np.testing.assert_allclose(measured, expected, atol=1e-12)


@pytest.mark.parametrize("figure", [mean_average_precision, f_micro])
def test_identical_methods_cannot_be_told_apart(figure):
    targets, outcome = drawn(np.random.default_rng(3))
    compared = compare_methods(targets, {"one": [outcome], "other": [outcome]}, figure, resamples=200)
    assert compared.difference_low[0, 1] == compared.difference_high[0, 1] == 0
    assert compared.leading == ("one", "other")
    assert compared.low[0] < compared.estimates[0] < compared.high[0]


def test_a_clear_difference_is_seen_and_a_single_best_is_named():
    rng = np.random.default_rng(4)
    targets = (rng.random((300, 4)) < 0.3).astype(np.uint8)
    shared = 0.3 * rng.normal(size=targets.shape)
    runs = {name: [noisy(rng, targets, signal, shared)] for name, signal in (("weak", 0.3), ("strong", 1.0))}
    compared = compare_methods(targets, runs, mean_average_precision, resamples=300)
    assert compared.leading == ("strong",)
    assert compared.difference_low[1, 0] > 0.1
    assert compared.difference_high[0, 1] == pytest.approx(-compared.difference_low[1, 0])


def test_intervals_hold_the_true_difference_about_as_often_as_they_say():
    """80 simulated test sets; the truth comes from 60,000 pictures of the same kind."""
    rng = np.random.default_rng(5)

    def measured(images):
        targets = (rng.random((images, 3)) < 0.3).astype(np.uint8)
        shared = 0.6 * rng.normal(size=targets.shape)
        return targets, {name: [noisy(rng, targets, signal, shared)] for name, signal in (("a", 1.0), ("b", 0.9))}

    targets, runs = measured(60_000)
    of_class = [
        average_precision_score(targets[:, n], runs["a"][0].scores[:, n])
        - average_precision_score(targets[:, n], runs["b"][0].scores[:, n])
        for n in range(3)
    ]
    truth, held, widths, unpaired = np.mean(of_class), [], [], []
    for _ in range(80):
        compared = compare_methods(*measured(200), mean_average_precision, resamples=200)
        low, high = compared.difference_low[0, 1], compared.difference_high[0, 1]
        held.append(low <= truth <= high)
        widths.append(high - low)
        unpaired.append(np.hypot(*(compared.high - compared.low)))
    assert 0.88 <= np.mean(held) <= 0.995
    assert np.mean(widths) < 0.8 * np.mean(unpaired), "drawing the same pictures for both must pay"


def test_many_equal_methods_are_seldom_told_apart_though_the_best_of_them_is_picked():
    rng = np.random.default_rng(6)
    alone = []
    for _ in range(100):
        truth = rng.normal(size=8)
        samples = truth[:, None] + rng.normal(size=(8, 400))
        compared = intervals(tuple("abcdefgh"), truth, samples)
        alone.append(len(compared.leading) < 8)
    assert np.mean(alone) <= 0.1


def test_seeds_widen_the_interval_by_the_variance_of_their_mean():
    targets, _ = drawn(np.random.default_rng(7))
    values = (0.1, 0.2, 0.4, 0.7)
    runs = {"a": [TestScores(np.zeros((40, 5), np.float32), np.float32([value])) for value in values]}
    seen = {}

    def figure(targets, outcome, weights):
        seen["resamples"] = len(weights) - 1
        return np.full(len(weights), float(outcome.thresholds[0]))

    compared = compare_methods(targets, runs, figure, resamples=4000)
    assert seen["resamples"] == 4000
    assert compared.estimates[0] == pytest.approx(np.mean(values))
    deviation = np.std(values, ddof=1) / np.sqrt(len(values))
    assert (compared.high[0] - compared.low[0]) / 2 == pytest.approx(1.96 * deviation, rel=0.1)


def test_one_run_brings_no_variance_of_seeds():
    targets, outcome = drawn(np.random.default_rng(8))
    compared = compare_methods(
        targets, {"a": [outcome]}, lambda targets, outcome, weights: np.full(len(weights), 0.5), resamples=50
    )
    assert compared.interval("a") == (0.5, 0.5)
    assert compared.interval("b") is None


def test_a_comparison_reads_back_as_it_was_written():
    rng = np.random.default_rng(9)
    compared = intervals(("a", "b"), np.array([0.5, 0.25]), rng.random((2, 50)))
    read = Comparison.from_dict(compared.to_dict())
    assert read.methods == compared.methods
    np.testing.assert_allclose(read.difference_low, compared.difference_low, atol=1e-6)
    np.testing.assert_allclose(read.high, compared.high, atol=1e-6)
