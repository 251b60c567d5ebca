"""Preparation, rule by rule: what is dropped and merged, who stays, how it is split, and that the counts add up."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlclip.data import Dataset, Item, Points, Preparation, prepare, write_changes
from mlclip.data.prepare import quantile_strata
from mlclip.errors import DataError

POINTS = Points(0.9, 0.98)
LOOSE = Preparation(min_count=1)


def on_circle(degrees):
    """Rows on the unit circle: the cosine similarity of two is the cosine of the angle between them."""
    angles = np.deg2rad(np.asarray(degrees, dtype=np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def make(degrees, labels, **fields):
    """Items whose file names tell where their embedding lies; 25 degrees are 0.906, 10 degrees 0.985."""
    items = [
        Item(Path(f"{n}.jpg"), tuple(names.split()), **{key: value[n] for key, value in fields.items()})
        for n, names in enumerate(labels)
    ]
    place = {item.path: degree for item, degree in zip(items, degrees, strict=True)}
    classes = tuple(sorted({label for item in items for label in item.labels}))
    return Dataset(tuple(items), classes), lambda paths: on_circle([place[path] for path in paths])


def cloud(count=300, seed=0, **fields):
    """Random rows in 16 dimensions, far from each other, with four labels."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, 16)).astype(np.float32)
    names = np.array(["a", "b", "c", "d"])
    items = tuple(
        Item(Path(f"{n}.jpg"), tuple(names[random.random(4) < (0.6, 0.3, 0.2, 0.1)]) or ("a",),
             **{key: value(n) for key, value in fields.items()})
        for n in range(count)
    )  # fmt: skip
    return Dataset(items, tuple(names)), lambda paths: rows[[int(path.stem) for path in paths]]


def names(dataset):
    return [item.path.stem for item in dataset.items]


def entries(prepared, action="dropped"):
    return [(change.what, change.reason, change.partner) for change in prepared.changes if change.action == action]


def test_images_without_labels_go_before_anything_is_encoded():
    data, embed = cloud(60)
    data = replace(data, items=(Item(Path("bare.jpg")), *data.items))
    seen = []

    def watch(paths):
        seen.extend(paths)
        return embed(paths)

    prepared = prepare(data, watch, POINTS, LOOSE)
    assert Path("bare.jpg") not in seen and len(seen) == 60
    assert entries(prepared) == [("bare.jpg", "no label", None)]


def spread(count):
    """Degrees far from each other, away from 0 to 60."""
    return list(np.linspace(100, 320, count))


def test_of_suspected_duplicates_one_stays_and_only_certain_ones_give_their_labels():
    labels = ["a", "a b", "c", "d"] + ["a"] * 8
    data, embed = make([0, 20, 25, 45, *spread(8)], labels)
    prepared = prepare(data, embed, POINTS, LOOSE)
    # 1 has the most labels; 2 is 5 degrees from it, so certain; 0 and 3 are 20 and 25 degrees from it
    assert entries(prepared) == [
        ("0.jpg", "suspected near-duplicate", "1.jpg"),
        ("2.jpg", "certain near-duplicate", "1.jpg"),
        ("3.jpg", "suspected near-duplicate", "1.jpg"),
    ]
    assert entries(prepared, "merged") == [("2.jpg", "certain near-duplicate", "1.jpg")]
    assert names(prepared.dataset)[0] == "1"
    assert prepared.dataset.items[0].labels[:2] == ("a", "b")
    merge = next(change for change in prepared.changes if change.action == "merged")
    assert merge.labels == ("c",)
    similarities = {change.what: change.similarity for change in prepared.changes if change.similarity}
    assert similarities["0.jpg"] == pytest.approx(np.cos(np.deg2rad(20)), abs=1e-6)
    assert similarities["3.jpg"] == pytest.approx(np.cos(np.deg2rad(25)), abs=1e-6)


def test_of_equals_the_first_stays_and_a_chain_does_not_collapse():
    data, embed = make([0, 8, 20, 28, *spread(8)], ["a", "b", "c", "d"] + ["a b c d"] * 8)
    prepared = prepare(data, embed, POINTS, LOOSE)
    assert names(prepared.dataset)[:2] == ["0", "3"]  # 28 degrees from 0 is no duplicate of it, of 2 it would be
    assert entries(prepared) == [
        ("1.jpg", "certain near-duplicate", "0.jpg"),
        ("2.jpg", "suspected near-duplicate", "0.jpg"),
    ]
    assert [item.labels for item in prepared.dataset.items[:2]] == [("a", "b"), ("d",)]


def test_a_certain_duplicate_without_new_labels_is_dropped_without_a_merge():
    data, embed = make([0, 5, *spread(8)], ["a b", "a"] + ["a"] * 8)
    prepared = prepare(data, embed, POINTS, LOOSE)
    assert entries(prepared, "merged") == []
    assert entries(prepared) == [("1.jpg", "certain near-duplicate", "0.jpg")]


def test_below_the_first_threshold_nothing_is_a_duplicate():
    data, embed = make([0, 27, *spread(8)], ["a"] * 10)
    assert len(prepare(data, embed, POINTS, LOOSE).dataset) == 10


def test_thresholds_come_from_groups_where_none_are_given():
    degrees = [angle for n in range(12) for angle in (n * 30, n * 30 + 2 + n % 3)]
    data, embed = make(degrees, ["a"] * 24, group=[f"g{n // 2}" if n < 20 else f"single{n}" for n in range(24)])
    prepared = prepare(data, embed, None, LOOSE)
    assert np.cos(np.deg2rad(30)) < prepared.points.suspected < prepared.points.certain
    assert prepared.points.suspected < 1


def test_without_groups_one_is_told_what_to_give():
    data, embed = cloud(40)
    with pytest.raises(DataError, match="groups do not tell .* or give --duplicates LOW HIGH"):
        prepare(data, embed, None, LOOSE)


def test_thresholds_in_the_wrong_order_are_refused():
    data, embed = cloud(40)
    with pytest.raises(DataError, match="must not be below"):
        prepare(data, embed, Points(0.99, 0.9), LOOSE)


def test_quantiles_are_of_equal_size():
    values = np.random.default_rng(0).random(1003)
    strata = quantile_strata(values, 10)
    sizes = Counter(strata.tolist())
    assert sorted(sizes) == list(range(10)) and max(sizes.values()) - min(sizes.values()) <= 1
    assert all(values[strata == n].max() <= values[strata == n + 1].min() for n in range(9))
    assert quantile_strata([5, 5, 5, 5], 2).tolist() == [0, 0, 1, 1]


def softmaxed(rows):
    """Each image's highest softmaxed similarity with the others, as a float64 loop."""
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    highest = []
    for n in range(len(unit)):
        powers = [np.exp(unit[n] @ unit[m]) for m in range(len(unit)) if m != n]
        highest.append(max(powers) / sum(powers))
    return np.array(highest)


def test_every_stratum_of_similarity_is_split_60_20_20():
    data, embed = cloud(300)
    rows = embed([item.path for item in data.items])
    order = np.argsort(np.argsort(softmaxed(rows)))
    prepared = prepare(data, embed, Points(1.5, 1.5), LOOSE)
    assert prepared.dataset.split_counts == {"train": 180, "val": 60, "test": 60}
    counts = Counter((order[int(item.path.stem)] // 30, item.split) for item in prepared.dataset.items)
    for stratum in range(10):
        assert [counts[stratum, name] for name in ("train", "val", "test")] == pytest.approx([18, 6, 6], abs=1)


def test_stratifying_by_labels_spreads_every_label():
    data, embed = cloud(300)
    prepared = prepare(data, embed, Points(1.5, 1.5), replace(LOOSE, stratify="labels"))
    for label in prepared.dataset.classes:
        counts = Counter(item.split for item in prepared.dataset.items if label in item.labels)
        assert counts["train"] / counts.total() == pytest.approx(0.6, abs=0.05)
    assert prepared.dataset != prepare(data, embed, Points(1.5, 1.5), LOOSE).dataset


@pytest.mark.parametrize("stratify", ["similarity", "labels"])
def test_groups_stay_in_one_split(stratify):
    data, embed = cloud(300, group=lambda n: f"g{n // 4}" if n % 3 else None)
    prepared = prepare(data, embed, Points(1.5, 1.5), replace(LOOSE, stratify=stratify))
    splits = {}
    for item in prepared.dataset.items:
        if item.group:
            assert splits.setdefault(item.group, item.split) == item.split
    assert set(prepared.dataset.split_counts) == {"train", "val", "test"}


def test_groups_that_a_duplicate_connects_stay_in_one_split():
    # 0 (group left) and 1 (group right) are one picture; 2 is of the left group, 3 of the right one
    degrees, groups = [0, 1, 60, 90, *spread(9)], ["left", "right", "left", "right", *map(str, range(9))]
    data, embed = make(degrees, ["a"] * 13, group=groups, split=[None, None, "test"] + [None] * 10)
    for seed in range(4):
        prepared = prepare(data, embed, POINTS, replace(LOOSE, seed=seed))
        of = {item.path.stem: item.split for item in prepared.dataset.items}
        assert "1" not in of
        assert of["0"] == of["2"] == of["3"] == "test"


def test_splits_that_are_given_stay_unless_asked_otherwise():
    data, embed = cloud(200, split=lambda n: ("train", "val", "test")[n % 3])
    kept = prepare(data, embed, Points(1.5, 1.5), LOOSE).dataset
    assert [item.split for item in kept.items] == [item.split for item in data.items]
    anew = prepare(data, embed, Points(1.5, 1.5), replace(LOOSE, resplit=True)).dataset
    assert anew.split_counts == {"train": 120, "val": 40, "test": 40}


def test_labels_with_too_few_training_images_go_everywhere_and_then_images_without_labels():
    splits = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    labels = ["a", "a", "a b", "a b", "a c", "c", "b", "b c", "c", "a c", "a", "b"]
    data, embed = make(np.arange(12) * 29, labels, split=splits)
    prepared = prepare(data, embed, POINTS, Preparation(min_count=3))
    assert prepared.dataset.classes == ("a",)
    assert names(prepared.dataset) == ["0", "1", "2", "3", "4", "9", "10"]
    assert all(item.labels == ("a",) for item in prepared.dataset.items)
    rare = [change for change in prepared.changes if change.action == "label dropped"]
    assert [(c.what, c.reason, c.images) for c in rare] == [(x, "fewer than 3 training images", 5) for x in "bc"]
    bare = [change for change in prepared.changes if change.reason == "only rare labels"]
    assert [(change.what, change.labels) for change in bare] == [
        ("5.jpg", ("c",)), ("6.jpg", ("b",)), ("7.jpg", ("b", "c")), ("8.jpg", ("c",)), ("11.jpg", ("b",)),
    ]  # fmt: skip


def test_a_label_counts_after_duplicates_are_gone():
    data, embed = make(
        [0, 1, 2, *np.arange(1, 10) * 30], ["x"] * 3 + ["a"] * 9, split=["train"] * 7 + ["val", "test"] * 2 + ["val"]
    )
    assert prepare(data, embed, POINTS, Preparation(min_count=2)).dataset.classes == ("a",)


def test_nothing_left_says_what_to_change():
    data, embed = cloud(40)
    with pytest.raises(DataError, match="no label is on 99 training images: lower --min-count"):
        prepare(data, embed, POINTS, Preparation(min_count=99))
    with pytest.raises(DataError, match=r"too few images .* \(39 of 40 images were near-duplicates: other thresholds"):
        prepare(data, embed, Points(-1, 1), LOOSE)
    with pytest.raises(DataError, match="no image has a label"):
        prepare(Dataset((Item(Path("a.jpg")),), ()), embed, POINTS)


def mixed():
    """Duplicates, rare labels, unlabelled images and plain ones, without splits."""
    data, embed = cloud(200)
    rare = (replace(data.items[0], labels=("rare",)), *data.items[1:])
    copies = tuple(replace(item, path=Path(f"copies/{item.path.stem}.jpg"), labels=("b",)) for item in rare[20:50])
    bare = tuple(Item(Path(f"bare/{n}.jpg")) for n in range(7))
    return Dataset(rare + copies + bare, (*data.classes, "rare")), embed


def test_counts_add_up_to_what_went_in_and_the_summary_states_them():
    data, embed = mixed()
    prepared = prepare(data, embed, Points(0.95, 0.99), Preparation(min_count=3))
    dropped = Counter(change.reason for change in prepared.changes if change.action == "dropped")
    assert dropped == {"no label": 7, "certain near-duplicate": 30, "only rare labels": 1}
    assert len(prepared.dataset) + dropped.total() == len(data) == prepared.given
    merged = sum(1 for change in prepared.changes if change.action == "merged")
    lines = "\n".join(prepared.lines())
    assert "237 images came in" in lines and "199 images are left: train " in lines
    assert "dropped: 30 images, certain near-duplicate" in lines
    assert f"merged: {merged} images got labels of {merged} duplicates" in lines
    assert "dropped: 1 labels, fewer than 3 training images" in lines
    assert "largest set of near-duplicates: 2 images" in lines and "4 labels are left" in lines


@pytest.mark.parametrize("block", [13, 100])
def test_blocks_change_nothing(block):
    data, embed = mixed()
    whole = prepare(data, embed, Points(0.95, 0.99), LOOSE)
    parts = prepare(data, embed, Points(0.95, 0.99), replace(LOOSE, block=block))
    assert names(parts.dataset) == names(whole.dataset)
    assert entries(parts) == entries(whole) and entries(parts, "merged") == entries(whole, "merged")
    assert parts.dataset.split_counts == whole.dataset.split_counts


def test_the_log_holds_one_line_a_change(tmp_path):
    data, embed = mixed()
    prepared = prepare(data, embed, Points(0.95, 0.99), Preparation(min_count=3))
    write_changes(prepared.changes, tmp_path / "log" / "changes.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "log" / "changes.jsonl").read_text().splitlines()]
    assert len(lines) == len(prepared.changes)
    duplicate = next(line for line in lines if line["reason"] == "certain near-duplicate")
    assert duplicate["partner"].endswith(".jpg") and duplicate["similarity"] == pytest.approx(1, abs=1e-6)
    assert {"action": "label dropped", "what": "rare", "reason": "fewer than 3 training images", "images": 1} in lines
