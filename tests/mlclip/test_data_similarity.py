"""Similarities in blocks: the same as all at once, in float64 loops, and in little memory."""

import math
import operator
import tracemalloc

import numpy as np
import pytest

from mlclip.data.near_duplicates import near_duplicates
from mlclip.data.similarity import cosines, highest_softmax, nearest, similarity_blocks


def make(count=60, width=8, copies=6, seed=0):
    """Random rows of any length, some of them near copies of others, far from any threshold used here."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, width))
    for n in range(copies):
        rows[-1 - n] = rows[n % 3] * 2 + random.normal(scale=0.05, size=width)
    return rows.astype(np.float32)


def table(rows):
    """All cosine similarities as plain float64 loops, -inf for an image with itself."""
    values = [[float(x) for x in row] for row in rows]
    length = [math.sqrt(sum(x * x for x in row)) for row in values]

    def cosine(a, b):
        return -math.inf if a == b else sum(map(operator.mul, values[a], values[b])) / length[a] / length[b]

    return [[cosine(a, b) for b in range(len(values))] for a in range(len(values))]


@pytest.mark.parametrize("block", [1, 7, 30, 60, 1000])
def test_blocks_give_what_all_at_once_gives(block):
    rows = make()
    full = np.array(table(rows))
    found = np.full_like(full, np.nan)
    for start, other, similarities in similarity_blocks(rows, block):
        assert similarities.shape[0] <= block and similarities.shape[1] <= block
        found[start : start + len(similarities), other : other + similarities.shape[1]] = similarities
    np.testing.assert_allclose(found, full, atol=1e-6)


@pytest.mark.parametrize("block", [1, 7, 30, 60, 1000])
def test_the_nearest_image_is_that_of_a_float64_loop(block):
    rows = make()
    full = table(rows)
    index, best = nearest(rows, block)
    assert index.tolist() == [max(range(len(row)), key=row.__getitem__) for row in full]
    np.testing.assert_allclose(best, [max(row) for row in full], atol=1e-6)


def test_of_equally_near_images_the_first_counts_whatever_the_block():
    rows = np.eye(4, dtype=np.float32)[[0, 1, 1, 0, 1, 0]]
    for block in (1, 2, 3, 6):
        assert nearest(rows, block)[0].tolist() == [3, 2, 1, 0, 1, 0]


def test_a_single_image_has_no_neighbour():
    index, best = nearest(make(count=1, copies=0))
    assert index.tolist() == [-1] and best.tolist() == [-math.inf]
    assert highest_softmax(make(count=1, copies=0)).tolist() == [0]


@pytest.mark.parametrize("block", [1, 3, 7, 1000])
@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.99])
def test_who_stays_is_what_a_float64_loop_chooses(block, threshold):
    rows = make(count=50)
    priority = np.random.default_rng(3).integers(0, 4, size=len(rows))
    full = table(rows)
    stays, expected = [], {}
    for row in sorted(range(len(rows)), key=lambda row: (-priority[row], row)):
        expected[row] = next((kept for kept in stays if full[row][kept] >= threshold), row)
        if expected[row] == row:
            stays.append(row)
    partner, similarity = near_duplicates(rows, threshold, priority, block)
    assert partner.tolist() == [expected[row] for row in range(len(rows))]
    want = [1 if expected[row] == row else full[row][expected[row]] for row in range(len(rows))]
    np.testing.assert_allclose(similarity, want, atol=1e-6)
    assert 3 < len(stays) < len(rows)


@pytest.mark.parametrize("block", [1, 7, 30, 1000])
@pytest.mark.parametrize("temperature", [1.0, 100.0])
def test_the_highest_softmax_is_that_of_a_float64_loop(block, temperature):
    rows = make()
    expected = []
    for row in table(rows):
        others = [temperature * value for value in row if value > -math.inf]
        top = max(others)
        expected.append(1 / sum(math.exp(value - top) for value in others))
    np.testing.assert_allclose(highest_softmax(rows, temperature, block), expected, rtol=2e-4)


def test_cosines_go_row_by_row():
    left, right = make(seed=1), make(seed=2)
    full = [np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(left, right, strict=True)]
    np.testing.assert_allclose(cosines(left, right), full, atol=1e-6)


def test_rows_on_disk_are_compared_without_a_table_of_all_similarities(tmp_path):
    count = 20_000
    rows = np.memmap(tmp_path / "rows.f32", np.float32, "w+", shape=(count, 16))
    rows[:] = np.random.default_rng(0).normal(size=rows.shape)
    rows[-1] = rows[0]
    tracemalloc.start()
    partner, _ = near_duplicates(rows, 0.99999, np.zeros(count), 1024)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert partner.tolist() == [*range(count - 1), 0]
    assert peak < 30e6  # all similarities would be 1.6 GB
