"""Vectors that agree pass; those of other images or another network do not, however close together they lie."""

import numpy as np
import pytest
from mlclip_bench.peers.agreement import compare

RNG = np.random.default_rng(0)
BASE = (10 + 0.1 * RNG.standard_normal((20, 64))).astype(np.float32)
"""As random weights give them: all cosines are above 0.999."""


def test_scaled_and_slightly_disturbed_vectors_agree():
    found = compare(3 * BASE + 0.003 * RNG.standard_normal(BASE.shape).astype(np.float32), BASE)
    assert found["agree"]
    assert found["own"] == 1
    assert found["centred_cosine"] > 0.99


def test_vectors_of_other_images_differ_though_their_cosine_is_near_one():
    found = compare(BASE[::-1], BASE)
    assert found["cosine"] > 0.999
    assert not found["agree"]
    assert found["own"] == 0


def test_one_wrong_image_is_enough():
    vectors = BASE.copy()
    vectors[3] = BASE[4]
    found = compare(vectors, BASE)
    assert not found["agree"]
    assert found["own"] == pytest.approx(0.95)


def test_the_figures_are_those_of_a_plain_loop():
    vectors = BASE + 0.05 * RNG.standard_normal(BASE.shape).astype(np.float32)
    units = [[row / np.linalg.norm(row) for row in rows.astype(np.float64)] for rows in (vectors, BASE)]
    mean = sum(units[1]) / len(units[1])
    plain, centred = [], []
    for one, other in zip(*units, strict=True):
        plain.append(one @ other)
        a, b = one - mean, other - mean
        centred.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    found = compare(vectors, BASE)
    assert found["cosine"] == pytest.approx(min(plain), abs=1e-12)
    assert found["centred_cosine"] == pytest.approx(min(centred), abs=1e-9)


def test_two_files_of_one_picture_count_as_own():
    twice = np.concatenate([BASE, BASE[:1]])
    assert compare(twice, twice)["own"] == 1


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        compare(BASE[:, :32], BASE)
