"""Prototypes against plain loops, and what becomes of empty groups."""

import numpy as np
import pytest

from mlclip.heads.prototypes import make_prototypes

GROUPINGS = ["random", "kmeans"]


def images(count, classes, width=6, seed=0):
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(count, width)).astype(np.float32)
    targets = (rng.random((count, classes)) < 0.4).astype(np.uint8)
    return embedding, targets


def single(classes, members):
    """One image a member, each with the label of its class alone."""
    return np.repeat(np.eye(classes, dtype=np.uint8), members, axis=0)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_one_prototype_a_class_is_the_mean_of_every_image_that_has_the_label(grouping):
    embedding, targets = images(40, 5)
    made = make_prototypes(embedding, targets, 1, grouping=grouping)
    for n in range(5):
        rows = [r for r in range(40) if targets[r, n]]
        vector, labels = np.zeros(6), np.zeros(5)
        for r in rows:
            vector += embedding[r].astype(np.float64) / len(rows)
            labels += targets[r] / len(rows)
        np.testing.assert_allclose(made.vectors[n], vector, rtol=0, atol=1e-6)
        np.testing.assert_allclose(made.labels[n], labels, rtol=0, atol=1e-6)
    assert made.filled.all()


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_every_image_counts_once_for_each_of_its_labels(grouping):
    """Image r is the r-th unit vector, so that the means of the groups show who is in them."""
    targets = images(30, 4)[1]
    embedding = np.eye(30, dtype=np.float32)
    made = make_prototypes(embedding, targets, 3, grouping=grouping, seed=1)
    for n in range(4):
        groups = made.vectors[n * 3 : n * 3 + 3]
        sizes = 1 / groups.max(axis=1, where=groups > 0, initial=0).clip(min=1e-9)
        members = (groups * sizes[:, None]).sum(axis=0)
        np.testing.assert_allclose(members, targets[:, n], rtol=0, atol=1e-5)


def test_averaged_labels_are_the_example_of_the_document():
    """Ten images of class 1, five of them also of class 2, none of class 3: [1, 0.5, 0]."""
    targets = np.zeros((10, 3), dtype=np.uint8)
    targets[:, 0], targets[:5, 1] = 1, 1
    embedding = np.ones((10, 2), dtype=np.float32)
    assert make_prototypes(embedding, targets, 1).labels[0].tolist() == [1, 0.5, 0]
    assert make_prototypes(embedding, targets, 1, labels="onehot").labels[0].tolist() == [1, 0, 0]


def test_random_groups_are_of_equal_size_and_drawn_by_seed():
    embedding, targets = np.eye(48, dtype=np.float32), np.ones((48, 1), dtype=np.uint8)
    made = [make_prototypes(embedding, targets, 16, grouping="random", seed=seed).vectors for seed in (3, 3, 4)]
    assert ((made[0] > 0).sum(axis=1) == 3).all()
    assert (made[0] == made[1]).all()
    assert (made[0] != made[2]).any()


def test_clustering_puts_similar_images_together():
    centres = np.array([[9, 0], [0, 9], [-9, 0]], dtype=np.float32)
    embedding = np.repeat(centres, 20, axis=0) + np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    made = make_prototypes(embedding, np.ones((60, 1), dtype=np.uint8), 3, grouping="kmeans")
    nearest = np.linalg.norm(made.vectors[:, None] - centres[None], axis=2)
    assert sorted(nearest.argmin(axis=1)) == [0, 1, 2]
    assert nearest.min(axis=1).max() < 1


def test_a_small_class_keeps_its_images_and_has_empty_groups_of_zeros():
    embedding, targets = images(7, 1)[0], single(3, [5, 2, 0])
    for grouping in GROUPINGS:
        made = make_prototypes(embedding, targets, 4, grouping=grouping, labels="onehot")
        assert made.filled.tolist() == [True] * 4 + [True, True, False, False] + [False] * 4
        np.testing.assert_array_equal(made.vectors[4:6], embedding[5:7])
        assert not made.vectors[~made.filled].any()
        assert not made.labels[~made.filled].any()


def test_clusters_that_stay_empty_become_zero_vectors():
    """Twelve copies of one picture can fill one of three clusters only."""
    embedding = np.tile(np.float32([0.6, 0.8]), (12, 1))
    made = make_prototypes(embedding, np.ones((12, 1), dtype=np.uint8), 3, grouping="kmeans")
    assert made.filled.sum() == 1
    np.testing.assert_allclose(made.vectors[made.filled], [[0.6, 0.8]], rtol=0, atol=1e-6)
    assert not made.vectors[~made.filled].any()


def test_there_are_no_more_groups_than_images_of_the_largest_class():
    embedding, targets = images(7, 1)[0], single(2, [5, 2])
    assert make_prototypes(embedding, targets, 4241).vectors.shape == (2 * 5, 6)


def test_an_option_that_does_not_fit_is_refused():
    embedding, targets = images(8, 2)
    with pytest.raises(ValueError, match="grouping must be one of random, kmeans, not 'mean'"):
        make_prototypes(embedding, targets, 2, grouping="mean")
    with pytest.raises(ValueError, match="labels must be one of averaged, onehot, not 'soft'"):
        make_prototypes(embedding, targets, 2, labels="soft")
    with pytest.raises(ValueError, match="at least 1 per class, not 0"):
        make_prototypes(embedding, targets, 0)
    with pytest.raises(ValueError, match="no image has a label"):
        make_prototypes(embedding, np.zeros_like(targets), 2)
