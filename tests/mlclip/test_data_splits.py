"""Splits and samples: shares hold for every label, families stay together, seeds repeat."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlclip.data import Dataset, Item, assign_splits, k_shot
from mlclip.errors import DataError


def make(count=400, classes=8, seed=0, **fields):
    random = np.random.default_rng(seed)
    names = [f"c{n}" for n in range(classes)]
    rates = 0.5 / np.arange(1, classes + 1)
    items = []
    for n in range(count):
        labels = tuple(name for name, rate in zip(names, rates, strict=True) if random.random() < rate)
        items.append(Item(Path(f"{n}.jpg"), labels, **{key: value(n) for key, value in fields.items()}))
    return Dataset(tuple(items), tuple(names))


def shares(dataset, name):
    counts = Counter(item.split for item in dataset.items if name in item.labels)
    return np.array([counts[split] for split in ("train", "val", "test")]) / counts.total()


@pytest.mark.parametrize("seed", range(4))
def test_every_label_is_spread_by_the_shares(seed):
    split = assign_splits(make(seed=seed), (0.6, 0.2, 0.2), seed=seed)
    counts = split.split_counts
    assert [counts[name] / 400 for name in ("train", "val", "test")] == pytest.approx([0.6, 0.2, 0.2], abs=0.04)
    for name in split.classes:
        assert shares(split, name) == pytest.approx([0.6, 0.2, 0.2], abs=0.06)


def test_a_seed_repeats_and_another_differs():
    data = make()
    assert assign_splits(data, seed=1) == assign_splits(data, seed=1)
    assert assign_splits(data, seed=1) != assign_splits(data, seed=2)


def test_fractions_need_not_sum_to_one_and_zero_leaves_a_split_out():
    data = make()
    assert assign_splits(data, (6, 2, 2)) == assign_splits(data, (0.6, 0.2, 0.2))
    assert set(assign_splits(data, (3, 1, 0)).split_counts) == {"train", "val"}


def test_splits_that_are_given_stay():
    data = make(split=lambda n: {0: "test", 1: "val", 2: "train"}.get(n % 10))
    split = assign_splits(data)
    for before, after in zip(data.items, split.items, strict=True):
        assert after.split == (before.split or after.split)
        assert after.split is not None


def test_groups_and_equal_bytes_stay_together_even_in_chains():
    data = make(group=lambda n: f"g{n // 5}" if n % 5 else None, sha256=lambda n: f"s{n // 2}" if n % 3 else None)
    split = assign_splits(data)
    for key in ("group", "sha256"):
        of = {}
        for item in split.items:
            value = getattr(item, key)
            if value is not None:
                assert of.setdefault(value, item.split) == item.split
    assert set(split.split_counts) == {"train", "val", "test"}


def test_a_group_follows_its_member_that_has_a_split():
    data = make(group=lambda n: f"g{n // 4}", split=lambda n: "test" if n in (2, 41) else None)
    split = assign_splits(data)
    assert [split.items[n].split for n in (0, 1, 2, 3, 40, 41, 42, 43)] == ["test"] * 8


def test_a_missing_val_is_cut_from_train_and_test_is_left_alone():
    data = make(split=lambda n: "test" if n % 4 == 0 else "train")
    split = assign_splits(data, (0.6, 0.2, 0.2))
    assert [n for n, item in enumerate(split.items) if item.split == "test"] == list(range(0, 400, 4))
    assert split.split_counts["val"] / 300 == pytest.approx(0.25, abs=0.03)
    for name in split.classes[:4]:
        train, val, _ = shares(split, name)
        assert val / (train + val) == pytest.approx(0.25, abs=0.05)


def test_complete_splits_are_not_touched():
    data = make(split=lambda n: ("train", "val", "test")[n % 3])
    assert assign_splits(data) == data


def test_items_without_labels_are_split_too():
    data = make()
    bare = replace(data, items=tuple(replace(item, labels=()) for item in data.items))
    assert assign_splits(bare).split_counts == {"train": 240, "val": 80, "test": 80}


@pytest.mark.parametrize("fractions", [(0, 1, 1), (1, -1, 1), (float("nan"), 1, 1), (1, 1)])
def test_senseless_fractions_are_refused(fractions):
    with pytest.raises(DataError, match="fractions must be three shares"):
        assign_splits(make(), fractions)


def test_too_few_groups_are_refused():
    with pytest.raises(DataError, match=r"too few images to fill .*: 400 in 1 groups"):
        assign_splits(make(group=lambda n: "one"))


@pytest.mark.parametrize("k", [1, 4, 16])
def test_k_shot_serves_every_class_and_takes_no_more_than_needed(k):
    data = assign_splits(make(classes=6))
    few = k_shot(data, k, seed=5)
    before, after = data.label_counts(), few.label_counts()
    assert all(after[name] >= min(k, before[name]) for name in data.classes)
    assert few.split_counts["train"] <= k * len(data.classes)
    assert few.split("test").items == data.split("test").items
    assert few.split("val").items == data.split("val").items
    assert all(item.labels for item in few.split("train").items)
    assert few == k_shot(data, k, seed=5)
    assert few != k_shot(data, k, seed=6)


def test_k_shot_counts_an_image_for_all_its_labels():
    data = Dataset(items(*[("a", "b")] * 5), ("a", "b"))
    assert k_shot(data, 2).split_counts == {"train": 2}


def test_k_shot_keeps_all_of_a_class_that_has_fewer():
    data = assign_splits(make(count=60, classes=8))
    assert k_shot(data, 50).label_counts() == data.label_counts()


def test_k_shot_without_a_train_split_is_refused():
    with pytest.raises(DataError, match="no image is in the split 'train'"):
        k_shot(make(), 2)
    with pytest.raises(DataError, match="k must be at least 1"):
        k_shot(assign_splits(make()), 0)


def items(*labels, split="train"):
    return tuple(Item(Path(f"{n}.jpg"), names, split=split, where=f"m:{n}") for n, names in enumerate(labels))


def test_targets_have_the_columns_of_the_classes():
    data = Dataset(items(("b",), (), ("a", "c"), ("c",)), ("c", "a", "b"))
    targets = data.targets()
    assert targets.dtype == np.uint8
    assert targets.tolist() == [[0, 0, 1], [0, 0, 0], [1, 1, 0], [1, 0, 0]]
    assert data.with_classes(["b", "c"]).targets().tolist() == [[1, 0], [0, 0], [0, 1], [0, 1]]
    assert len(data.with_classes(["b"]).labelled()) == 1
    with pytest.raises(DataError, match="m:0: 'b' is none of the classes"):
        Dataset(data.items, ("a", "c")).targets()


def test_the_most_frequent_training_labels_come_first_and_ties_by_name():
    train = items(("b", "z"), ("b", "a"), ("c",))
    data = Dataset(train + items(("z",), ("z",), ("q",), split="test"), ("z", "c", "b", "a", "q"))
    assert data.top(3) == ("b", "a", "c")
    assert data.top(99) == ("b", "a", "c", "z")
    assert data.frequent(2) == ("b",)
    with pytest.raises(DataError, match="at least 1"):
        data.top(0)


def test_an_unknown_split_is_refused():
    with pytest.raises(DataError, match="'dev': use one of train, val, test"):
        make().split("dev")
