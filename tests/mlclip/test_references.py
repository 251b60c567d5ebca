from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mlclip.checkpoint import edit_run, load_run, save_run
from mlclip.data import Dataset, Item, assign_splits, write_manifest
from mlclip.errors import CheckpointError, DataError
from mlclip.settings import Recipe, TrainConfig
from mlclip.training.references import append_references, remove_references
from mlclip.training.runs import head_features, train_run

CLASSES = ("blue", "green", "red", "white")
LATE = 10
"""So many of the pictures are not there yet when the run is made."""


@pytest.fixture(scope="module")
def dataset(pictures):
    paths, labels = pictures
    items = tuple(Item(path, names) for path, names in zip(paths[LATE:], labels[LATE:], strict=True))
    return assign_splits(Dataset(items, CLASSES), (0.6, 0.2, 0.2), seed=0)


@pytest.fixture(scope="module")
def run(dataset, encoder, cache):
    options = {"max_neighbors": 200, "max_difference": 1000.0, "temperature": 5.0}
    return train_run(dataset, encoder, cache, Recipe("neighbors", options))


@pytest.fixture
def late(pictures):
    paths, labels = pictures
    return Dataset(tuple(Item(paths[n], labels[n]) for n in range(LATE)), CLASSES)


def same(one, other):
    state, again = one.head.state_dict(), other.head.state_dict()
    return (
        (one.labels, one.head.reference_ids, one.head.config)
        == (other.labels, other.head.reference_ids, other.head.config)
        and np.array_equal(one.thresholds, other.thresholds)
        and state.keys() == again.keys()
        and all(torch.equal(state[key], again[key]) for key in state)
    )


def scores(run, dataset, cache):
    rows = head_features(run.head, dataset, cache)[slice(None)]
    return run.head(*map(torch.from_numpy, rows))[0].numpy()


@pytest.mark.parametrize(
    ("head", "options"),
    [("neighbors", {}), ("knn1", {}), ("neighbors", {"index": "hnsw"}), ("neighbors", {"index": "ivf"})],
)
def test_append_then_remove_gives_the_same_run(head, options, dataset, encoder, cache, late):
    run = train_run(dataset, encoder, cache, Recipe(head, options))
    grown = append_references(run, late, cache)
    ids = [str(item.path) for item in late.items]
    assert grown.head.reference_ids == (*run.head.reference_ids, *ids)
    assert torch.equal(grown.head.reference_targets()[-LATE:], torch.from_numpy(late.targets()))
    assert not same(grown, run)
    assert same(remove_references(grown, ids), run)


def test_an_appended_reference_answers_for_itself(dataset, encoder, cache, late):
    run = append_references(train_run(dataset, encoder, cache, Recipe("knn1")), late, cache)
    assert np.array_equal(scores(run, late, cache), late.targets())


def test_unknown_labels_become_classes_at_the_end_with_the_median_threshold(run, cache, late):
    items = tuple(replace(item, labels=(*item.labels, "zebra")[n % 2 :]) for n, item in enumerate(late.items))
    late = Dataset((*items[:-1], replace(items[-1], labels=("apple",))), ("apple", "never", *CLASSES, "zebra"))
    grown = append_references(run, late, cache)
    assert grown.labels == (*CLASSES, "apple", "zebra")
    assert grown.thresholds[:4].tolist() == run.thresholds.tolist()
    assert grown.thresholds[4:].tolist() == [np.median(run.thresholds).astype(np.float32)] * 2
    assert not grown.head.reference_targets()[:-LATE, 4:].any()
    assert grown.head.reference_targets()[-LATE:, 4].tolist() == [0] * (LATE - 1) + [1]
    assert not grown.metrics and run.metrics
    ids = [str(item.path) for item in late.items]
    assert same(remove_references(grown, ids, drop_labels=True), run)
    shrunk = remove_references(grown, ids)
    assert shrunk.labels == grown.labels
    assert np.array_equal(scores(shrunk, late, cache)[:, :4], scores(run, late, cache))
    assert not scores(shrunk, late, cache)[:, 4:].any()


def test_unknown_labels_can_be_left_aside(run, cache, late):
    items = (replace(late.items[0], labels=("zebra", "red")), replace(late.items[1], labels=("zebra",)))
    grown = append_references(run, Dataset(items, (*CLASSES, "zebra")), cache, new_labels=False)
    assert grown.labels == CLASSES
    assert grown.head.reference_ids[len(run.head.reference_ids) :] == (str(items[0].path),)


def test_old_scores_shrink_by_what_newcomers_weigh(run, dataset, cache, late):
    fresh = Dataset(tuple(replace(item, labels=("zebra",)) for item in late.items), (*CLASSES, "zebra"))
    grown, test = append_references(run, fresh, cache), dataset.split("test")
    before, after = scores(run, test, cache), scores(grown, test, cache)
    newcomers = after[:, 4:]
    assert (newcomers > 0.01).all() and (newcomers < 0.99).all()
    np.testing.assert_allclose(after[:, :4], before * (1 - newcomers), atol=1e-5)


def test_scores_stay_where_newcomers_are_no_neighbors(dataset, encoder, cache, late):
    run = train_run(dataset, encoder, cache, Recipe("neighbors", {"max_neighbors": 3, "temperature": 20.0}))
    fresh = Dataset(tuple(replace(item, labels=("zebra",)) for item in late.items), (*CLASSES, "zebra"))
    grown, test = append_references(run, fresh, cache), dataset.split("test")
    before, after = scores(run, test, cache), scores(grown, test, cache)
    untouched = after[:, 4] == 0
    assert untouched.any() and not untouched.all()
    np.testing.assert_allclose(after[untouched, :4], before[untouched], atol=1e-6)


def test_only_labelled_training_images_that_are_new_are_appended(run, dataset, cache, late):
    first, second, third, fourth, *_ = late.items
    mixed = Dataset(
        (replace(first, split="val"), replace(second, split="test"), replace(third, labels=()),
         replace(fourth, split="train"), *dataset.split("train").items[:2]),
        CLASSES,
    )  # fmt: skip
    grown = append_references(run, mixed, cache)
    assert grown.head.reference_ids == (*run.head.reference_ids, str(fourth.path))
    assert append_references(grown, mixed, cache) is grown
    folder = fourth.path.parent
    again = Dataset((replace(fourth, path=folder / ".." / folder.name / fourth.path.name),), CLASSES)
    assert append_references(grown, again, cache) is grown, "another way to write the same path"


def test_an_image_given_twice_is_refused(run, cache, late):
    twice = Dataset((late.items[0], replace(late.items[0], where="more.csv:7")), CLASSES)
    with pytest.raises(DataError, match=r"more\.csv:7: .* is given twice, first at .*000\.png"):
        append_references(run, twice, cache)


def test_removing_what_is_not_there_or_everything_is_refused(run):
    with pytest.raises(
        DataError, match=r"'nope' is not a reference of this run \(and 1 more\): see `mlclip references"
    ):
        remove_references(run, ["nope", run.head.reference_ids[0], "really"])
    with pytest.raises(DataError, match="no reference would be left"):
        remove_references(run, run.head.reference_ids)


def test_a_head_without_references_says_which_have_them(dataset, encoder, cache, late):
    run = train_run(dataset, encoder, cache, Recipe("sigmoid", training=TrainConfig(epochs=1)))
    assert not run.head.reference_ids
    for use in (lambda: append_references(run, late, cache), lambda: remove_references(run, ["a"])):
        with pytest.raises(CheckpointError, match="this sigmoid .*: use neighbors or knn1"):
            use()


@pytest.mark.parametrize("lost", ["all", "some"])
def test_references_whose_names_were_lost_are_refused(lost, run, cache, late, tmp_path):
    save_run(tmp_path, run)
    file, count = tmp_path / "references.jsonl", len(run.head.reference_ids)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("" if lost == "all" else "".join(lines[:-1]))
    named = 0 if lost == "all" else count - 1
    run = load_run(tmp_path)
    for use in (lambda: append_references(run, late, cache), lambda: remove_references(run, ["a"])):
        with pytest.raises(CheckpointError, match=f"names {named} of its {count} references: restore its references"):
            use()


def test_prototypes_are_no_references_that_could_change(dataset, encoder, cache, late):
    run = train_run(dataset, encoder, cache, Recipe("neighbornet", {"prototypes": 2}))
    with pytest.raises(CheckpointError, match="this neighbornet keeps no references that could change"):
        append_references(run, late, cache)


def test_a_run_folder_is_replaced_as_a_whole(run, cache, late, tmp_path):
    folder = tmp_path / "runs" / "mine"
    save_run(folder, run)
    (folder / "notes.md").write_text("mine")
    before, after = edit_run(folder, lambda run: append_references(run, late, cache))
    assert len(after.head.reference_ids) == len(before.head.reference_ids) + LATE
    assert same(load_run(folder), after)
    assert (folder / "notes.md").read_text() == "mine"
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


def test_an_edit_that_fails_leaves_the_folder_as_it_was(run, tmp_path):
    folder = tmp_path / "runs" / "mine"
    save_run(folder, run)

    def change(run):
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        edit_run(folder, change)
    assert same(load_run(folder), run)
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


def test_an_edit_that_changes_nothing_writes_nothing(run, tmp_path):
    save_run(tmp_path / "mine", run)
    files = {path.name: path.stat().st_ino for path in (tmp_path / "mine").iterdir()}
    edit_run(tmp_path / "mine", lambda run: run)
    assert {path.name: path.stat().st_ino for path in (tmp_path / "mine").iterdir()} == files


def test_a_missing_run_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no run folder"):
        edit_run(tmp_path / "no" / "run", lambda run: run)


def test_the_command_adds_lists_and_removes(run, late, tmp_path, mlclip):
    folder, store = tmp_path / "run", tmp_path / "features"
    save_run(folder, run)
    items = (replace(late.items[0], labels=("zebra",)), replace(late.items[1], split="test"))
    write_manifest(Dataset(items, ("zebra", *CLASSES)), tmp_path / "more.jsonl")
    code, told, _ = mlclip("references", folder, "--add", tmp_path / "more.jsonl", "--cache", store)
    count = len(run.head.reference_ids) + 1
    assert code == 0 and f"1 references added, {count} in all" in told and "1 images left out" in told
    assert f"1 new classes, threshold {np.median(run.thresholds):.4g} (the median of the run's): zebra" in told

    code, listed, _ = mlclip("references", folder, "--list")
    added, _, labels = listed.splitlines()[-1].partition("\t")
    assert code == 0 and len(listed.splitlines()) == count
    assert Path(added).samefile(items[0].path) and labels == "zebra"

    gone = tmp_path / "gone.txt"
    gone.write_text(f"{added}\n")
    code, told, _ = mlclip("references", folder, "--remove", gone)
    assert code == 0 and "1 classes have no reference left and score 0: zebra" in told
    code, told, _ = mlclip("references", folder, "--remove", run.head.reference_ids[0], "--drop-labels")
    assert code == 0 and "1 classes dropped: zebra" in told
    assert load_run(folder).head.reference_ids == run.head.reference_ids[1:]


def test_the_command_says_what_is_wrong(run, tmp_path, mlclip):
    save_run(tmp_path / "run", run)
    code, _, said = mlclip("references", tmp_path / "run")
    assert code == 2 and "--add DATA" in said
    assert mlclip("references", tmp_path / "run", "--list", "--remove", "a")[0] == 2
    code, _, said = mlclip("references", tmp_path / "run", "--remove", "nope")
    assert code == 1 and said.splitlines()[-1].startswith("error: 'nope' is not a reference of this run")
