"""Novelty is spread evenly for images like validation's, and near 1 for unlike ones."""

import numpy as np
import pytest

from mlclip.checkpoint import load_run, save_run
from mlclip.novelty import fit_novelty
from mlclip.settings import Recipe
from mlclip.training.runs import train_run
from mlclip.training.trust import measure_novelty


def drawn(rows, seed, far=0.0, width=16):
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(5, width))
    found = centres[draw.integers(0, 5, rows)] + 0.4 * draw.normal(size=(rows, width)) + far
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_images_like_validations_are_spread_evenly_and_others_are_at_the_end():
    measure = fit_novelty(drawn(600, 0), drawn(300, 1))
    like, unlike = measure(drawn(2000, 2)), measure(drawn(200, 3, far=4.0))
    assert like.shape == (2000, 1) and like.dtype == np.float32
    np.testing.assert_allclose(np.quantile(like, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.06)
    assert np.mean(unlike >= 0.95) > 0.95
    np.testing.assert_allclose(np.sort(measure(drawn(300, 1))[:, 0]), np.linspace(0, 1, 300), atol=0.008)


def test_fewer_images_than_centres_and_equal_images_do():
    one = drawn(1, 0)
    measure = fit_novelty(one, one.repeat(3, axis=0))
    assert len(measure.centres) == 1
    assert measure(drawn(1, 5, far=4.0)) == pytest.approx(1)
    assert 0 <= measure(one).item() <= 1


def test_a_run_keeps_it(dataset, encoder, cache, tmp_path):
    run = measure_novelty(train_run(dataset, encoder, cache, Recipe("sigmoid")), dataset, cache)
    save_run(tmp_path, run)
    again = load_run(tmp_path).novelty
    rows = cache.rows([item.path for item in dataset.split("val").items])[slice(None)]
    np.testing.assert_array_equal(again(rows), run.novelty(rows))
    assert again(rows).mean() == pytest.approx(0.5, abs=0.05)
