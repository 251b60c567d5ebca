import copy
import csv
import functools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import auc
from sklearn.preprocessing import MultiLabelBinarizer

from mlclip.checkpoint import EncoderRef, load_run, save_run
from mlclip.classifier import MultiLabelClassifier
from mlclip.cli.reliability import draw_reliability
from mlclip.data import Dataset, write_manifest
from mlclip.errors import CheckpointError, MlclipError, TrainError
from mlclip.heads import HEADS
from mlclip.metrics import mean_average_precision
from mlclip.settings import Recipe, ThresholdConfig, TrainConfig
from mlclip.training.extend import extend_run
from mlclip.training.loop import predict_outputs, predict_scores, train_head
from mlclip.training.references import remove_references
from mlclip.training.runs import (
    evaluate_run,
    examples,
    head_features,
    retune_run,
    split_scores,
    train_run,
    untrained_head,
)

QUICK = {
    "sigmoid": TrainConfig(lr=0.02, epochs=30),
    "mld": TrainConfig(lr=2e-3, epochs=30, alignment_weight=0.1),
    "siglip": TrainConfig(lr=1e-3, epochs=3),
}
"""Settings that make some trainings quicker; all others stop after 30 epochs of their own."""


def quick(name):
    defaults = HEADS[name].defaults
    return QUICK.get(name, replace(defaults, epochs=min(30, defaults.epochs)))


def train(name, dataset, encoder, cache, **changes):
    options = {"hidden": 32, "groups": 2} if name == "mld" else {}
    return train_run(dataset, encoder, cache, Recipe(name, options, replace(quick(name), **changes)))


@pytest.fixture(scope="module")
def trained(dataset, encoder, cache):
    """Train a head with quick settings, once for all tests."""
    return functools.cache(lambda name: train(name, dataset, encoder, cache))


def test_groups_beyond_the_classes_are_said(dataset, encoder, cache, caplog):
    train_run(dataset, encoder, cache, Recipe("mld", {"hidden": 32, "groups": 9}, replace(quick("mld"), epochs=1)))
    assert "groups is 4, not 9, with 4 classes" in caplog.messages


@pytest.mark.parametrize("name", sorted(HEADS.keys() - {"zeroshot", "siglip"}))
def test_a_head_learns_what_can_be_seen(name, trained, dataset, cache):
    """All but those whose answer comes from the text tower, which is random here."""
    metrics = evaluate_run(trained(name), dataset, cache)
    assert metrics.mean_average_precision > 0.75, "chance is about 0.48"
    assert metrics.micro.precision > 0.6, "chance is about 0.48"


@pytest.mark.parametrize("name", HEADS)
def test_equal_seeds_give_equal_weights_and_other_seeds_do_not(name, trained, dataset, encoder, cache):
    run = trained(name)
    first, second = run.head.state_dict(), train(name, dataset, encoder, cache).head.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    if run.training["epochs_run"]:
        other = train(name, dataset, encoder, cache, epochs=1, seed=1).head.state_dict()
        assert not all(torch.equal(other[key], first[key]) for key in first)


@pytest.mark.parametrize("name", HEADS)
def test_a_run_folder_reads_back_as_it_was_written(name, trained, dataset, cache, tmp_path):
    run = trained(name)
    save_run(tmp_path / "run", run)
    again = load_run(tmp_path / "run")
    assert (again.labels, again.encoder, again.training) == (run.labels, run.encoder, run.training)
    assert np.array_equal(again.thresholds, run.thresholds)
    assert again.head.reference_ids == run.head.reference_ids
    features = head_features(run.head, dataset, cache)
    assert np.array_equal(predict_scores(again.head, features), predict_scores(run.head, features))
    files = ["config.json", "head.safetensors", "labels.txt", "metrics.json", "thresholds.json"]
    files += ["references.jsonl"] if run.head.reference_ids else []
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_file()) == sorted(files)


def test_early_stopping_keeps_the_best_epoch(dataset, encoder, cache):
    head = HEADS["sigmoid"](classes=4, width=encoder.embedding_width)
    train, validation = (examples(head, dataset.split(name), cache) for name in ("train", "val"))
    history = train_head(head, train, validation, TrainConfig(lr=2.0, epochs=40, patience=3))
    best = max(history, key=lambda epoch: epoch.validation_map)
    assert len(history) == min(40, best.number + 3), "three epochs without a better one end it"
    kept = mean_average_precision(validation.targets, predict_outputs(head, validation.features))
    assert kept == pytest.approx(best.validation_map)


def test_the_last_epoch_can_be_kept(dataset, encoder, cache):
    recipe = Recipe("sigmoid", {}, TrainConfig(lr=2.0, epochs=6, patience=1, keep="last"))
    head = untrained_head(recipe, dataset, encoder)
    train, validation = (examples(head, dataset.split(name), cache) for name in ("train", "val"))
    history = train_head(head, train, validation, recipe.training)
    assert len(history) == 6 and not history[-1].best, "patience does not end it"
    kept = mean_average_precision(validation.targets, predict_outputs(head, validation.features))
    assert kept == pytest.approx(history[-1].validation_map)
    assert train_run(dataset, encoder, cache, recipe).training["best_epoch"] == 6


@pytest.mark.parametrize(
    ("name", "options"),
    [("knn1", {}), ("neighbors", {"max_neighbors": 5}), ("neighbors", {"index": "hnsw"}), ("neighbornet", {})],
    ids=str,
)
def test_a_reference_does_not_answer_for_itself(name, options, dataset, encoder, cache):
    labels = [item.labels for item in dataset.items[::-1]]  # others' labels, so that an image's own ones tell
    items = tuple(replace(item, labels=names) for item, names in zip(dataset.items, labels, strict=True))
    mixed = replace(dataset, items=items)
    run, train = train_run(mixed, encoder, cache, Recipe(name, options)), mixed.split("train")
    folder = items[0].path.parent / ".." / items[0].path.parent.name  # another way to write the same paths
    moved = replace(mixed, items=tuple(replace(item, path=folder / item.path.name) for item in items))
    _, scores = split_scores(run, moved, cache, "train")
    assert not np.allclose(scores, predict_scores(run.head, head_features(run.head, train, cache)))
    for row in (0, 7, len(train) - 1):
        alone = replace(train, items=train.items[row : row + 1])
        without = remove_references(run, [run.head.reference_ids[row]])
        features = head_features(run.head, alone, cache)
        np.testing.assert_allclose(scores[row : row + 1], predict_scores(without.head, features), atol=1e-5)


def test_a_reference_of_tip_does_not_answer_for_itself(trained, dataset, cache):
    run, train = trained("tip"), dataset.split("train")
    _, scores = split_scores(run, dataset, cache, "train")
    head = copy.deepcopy(run.head)
    head.labels[3] = 0
    features = head_features(head, replace(train, items=train.items[3:4]), cache)
    np.testing.assert_allclose(scores[3:4], predict_scores(head, features), atol=1e-5)
    assert not np.allclose(scores[3:4], predict_scores(run.head, features), atol=1e-5)


def test_the_commands_train_as_told_and_write_curves(mlclip, dataset, encoder_folder, cache, tmp_path):
    write_manifest(dataset, tmp_path / "data.jsonl")
    words = ["train", "--data", tmp_path / "data.jsonl", "--head", "sigmoid", "--encoder", encoder_folder,
             "--epochs", 2, "--cache", cache.root, "--out", tmp_path / "run", "--momentum", 0.5]  # fmt: skip
    code, _, said = mlclip(*words)
    assert code == 1 and "--momentum belongs to --optimizer sgd, not lbfgs" in said
    wanted = {"optimizer": "sgd", "schedule": "cosine", "weight_decay": 0.25, "keep": "last"}
    more = (word for name, value in wanted.items() for word in (f"--{name.replace('_', '-')}", value))
    code, _, said = mlclip(*words, *more)
    assert code == 0, said
    assert load_run(tmp_path / "run").training.items() >= (wanted | {"momentum": 0.5}).items()
    assert mlclip(*words, "--optimizer", "sgd", "--weight-decay", -1)[0] == 1
    asked = ("--per-class", "--roc", tmp_path / "roc.csv", "--cache", cache.root)
    code, told, said = mlclip("eval", tmp_path / "run", *asked)
    assert code == 0, said
    rows = list(csv.DictReader((tmp_path / "roc.csv").read_text().splitlines()))
    test = load_run(tmp_path / "run").metrics["test"]
    for label, area in [("", test["roc_auc_micro"]), *((one["label"], one["roc_auc"]) for one in test["per_class"])]:
        curve = [row for row in rows if row["label"] == label]
        false, true = ([float(row[f"{rate}_positive_rate"]) for row in curve] for rate in ("false", "true"))
        assert auc(false, true) == pytest.approx(area)
        assert f"{area:.3f}" in told
    for figure in ("brier", "ece"):
        assert all(0 < row[figure] < 0.5 for row in test["per_class"])
    assert np.mean([row["brier"] for row in test["per_class"]]) == pytest.approx(test["brier"])


def test_the_picture_of_reliability_shows_every_class_that_has_images(trained, mlclip, cache, tmp_path):
    run = trained("sigmoid")
    targets = np.zeros((40, 4), np.uint8)
    targets[:, 0], targets[:8, 1:3] = np.arange(40) % 2, 1
    scores = np.random.default_rng(0).random((40, 4), np.float32)
    draw_reliability(tmp_path / "drawn.svg", targets, scores, ("a", "b$x$", "c", "none"))
    words = re.findall("<!-- (.*?) -->", (tmp_path / "drawn.svg").read_text())
    assert [word for word in words if "(" in word] == ["a (20)", "b$x$ (8)", "c (8)"] and "all labels" in words
    save_run(tmp_path / "run", run)
    code, _, said = mlclip("eval", tmp_path / "run", "--reliability", tmp_path / "picture.txt")
    assert code == 1 and ".png" in said


def test_thresholds_can_be_chosen_anew(trained, dataset, cache):
    run = trained("sigmoid")
    tuned = retune_run(run, dataset, cache, ThresholdConfig("global", beta=2.0))
    assert len(set(tuned.thresholds.tolist())) == 1
    assert tuned.metrics["val"]["micro"]["f2"] >= run.metrics["val"]["micro"]["f2"] - 0.05
    assert tuned.training["thresholds"]["beta"] == 2.0


def test_a_changed_encoder_is_noticed(dataset, encoder, cache, encoder_folder):
    reference = EncoderRef.of(encoder)
    assert reference.load().fingerprint == encoder.fingerprint
    with pytest.raises(CheckpointError, match="is not the one this head was trained on"):
        EncoderRef(reference.name, None, reference.tag, "0" * 16, reference.spec).load()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe("mld", {"attention_heads": 3}), "do not divide"),
        (Recipe("mld", {"scale": 1.0}), "mld does not take scale=1.0: .mlclip heads mld. lists its options"),
        (Recipe("mld", {"dropout": "abc"}), "mld does not take dropout='abc'"),
        (Recipe("sigmoid", {}, TrainConfig(alignment_weight=1.0)), "alignment loss works for `mld`"),
        (Recipe("sigmoid", {}, TrainConfig(lr=1e36)), "lower --lr"),
    ],
)
def test_training_that_cannot_work_says_why(recipe, message, dataset, encoder, cache):
    with pytest.raises(TrainError, match=message):
        train_run(dataset, encoder, cache, recipe)


def test_labels_that_break_a_line_are_refused(trained, tmp_path):
    run = trained("sigmoid")
    for first in ("a\nb", "a\u2028b", "a\ud800", "", "c"):
        with pytest.raises(CheckpointError, match=r"labels.txt"):
            save_run(tmp_path / "run", replace(run, labels=(first, "c", "d", "e")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "hinge"}, "training: unknown loss 'hinge'"),
        ({"loss_options": None}, "training: 'NoneType'"),
        ({"thresholds": {"mode": "median"}}, "thresholds: unknown thresholds 'median'"),
        ({"thresholds": {"mood": 1}}, "thresholds: .* argument 'mood'"),
    ],
)
def test_a_run_whose_record_was_edited_by_hand_says_what_is_wrong(changes, message, trained, dataset, cache, tmp_path):
    run = trained("sigmoid")
    run = replace(run, training=run.training | changes)
    items = (replace(item, labels=(*item.labels, "late")) for item in dataset.items)
    with pytest.raises(TrainError, match=f"the run's config.json: {message}"):
        extend_run(run, Dataset(tuple(items), (*dataset.classes, "late")), cache)


@pytest.mark.parametrize("record", [[], {"head": 1}, {"head": {"name": "sigmoid", "config": []}}, "[" * 100_000])
def test_any_other_json_in_a_run_is_one_line(record, trained, tmp_path):
    save_run(tmp_path, trained("sigmoid"))
    (tmp_path / "config.json").write_text(record if isinstance(record, str) else json.dumps(record))
    with pytest.raises(CheckpointError, match="is broken: [^\n]*$"):
        load_run(tmp_path)


@pytest.mark.parametrize("damage", ["config.json", "head.safetensors", "thresholds.json", "labels.txt"])
def test_a_broken_run_folder_is_named(damage, trained, tmp_path):
    save_run(tmp_path / "run", trained("sigmoid"))
    broken = tmp_path / "run" / damage
    broken.write_bytes(broken.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=str(tmp_path / "run")):
        load_run(tmp_path / "run")
    broken.unlink()
    with pytest.raises(CheckpointError, match=f"is no run folder: {damage} is missing"):
        load_run(tmp_path / "run")


def test_classifier_speaks_scikit_learn(pictures, encoder, tmp_path):
    paths, labels = pictures
    classifier = MultiLabelClassifier("sigmoid", encoder, training=QUICK["sigmoid"], cache=tmp_path / "features")
    classifier.fit(paths[:70], labels[:70])
    assert classifier.classes_ == ("blue", "green", "red", "white")
    scores = classifier.predict_proba(paths[70:])
    assert scores.shape == (20, 4) and scores.dtype == np.float32
    hits = sum(
        set(guess) == set(truth) for guess, truth in zip(classifier.predict(paths[70:]), labels[70:], strict=True)
    )
    assert hits >= 8, "chance, with every label at its own rate, is about 1"
    classifier.save(tmp_path / "run")
    again = MultiLabelClassifier.load(tmp_path / "run", cache=tmp_path / "features")
    assert np.array_equal(again.predict_proba(paths[70:]), scores)
    assert again.predict([]) == [] and again.predict_proba([]).shape == (0, 4)


def test_classifier_takes_the_matrix_that_scikit_learn_makes(pictures, encoder, tmp_path):
    paths, labels = pictures
    binarizer = MultiLabelBinarizer(sparse_output=True)
    sparse = binarizer.fit_transform(labels)
    found = []
    for given, classes in ((labels, None), (sparse, binarizer.classes_), (sparse.toarray().tolist(), [*"bgrw"])):
        classifier = MultiLabelClassifier("sigmoid", encoder, training=TrainConfig(epochs=2), cache=str(tmp_path))
        found.append(classifier.fit(paths, given, classes=classes).predict_proba(paths[:3]))
    assert classifier.classes_ == ("b", "g", "r", "w")
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


NAMES = "give a list.* of names per image, such as"


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda c, paths, labels: c.fit(paths, labels[:-1]), "90 images but 89 label lists"),
        (lambda c, paths, labels: c.fit(paths[:2], ["cat", "a|b"]), f"{NAMES}.* not str 'cat'"),
        (lambda c, paths, labels: c.fit(paths[:2], "cat"), f"{NAMES}.* not str 'cat'"),
        (lambda c, paths, labels: c.fit(paths[:2], [1, 0]), f"{NAMES}.* not int 1"),
        (lambda c, paths, labels: c.fit(paths[:2], [["cat"], ["a", 3]]), f"{NAMES}.* not int 3"),
        (lambda c, paths, labels: c.fit(paths[:2], [[0, 1], [1, 0]]), r"labels are a matrix \[2, 2\]: .*classes="),
        (lambda c, paths, labels: c.fit(paths[:2], np.eye(2), classes=["a"]), r"labels are a matrix \[2, 2\]"),
        (lambda c, paths, labels: c.fit(paths[:2], 2 * np.eye(2), classes=["a", "b"]), r"labels are a matrix"),
        (lambda c, paths, labels: c.fit(paths[:2], np.eye(2), classes="ab"), "a list of class names, not str 'ab'"),
        (lambda c, paths, labels: c.fit(paths[:2], np.eye(2), classes=["a", None]), "a list of class names, not None"),
        (lambda c, paths, labels: c.fit(paths, labels, classes=4), "a list of class names, not int 4"),
        (lambda c, paths, labels: c.fit("a.jpg", labels), "give a list of image files.* not str 'a.jpg'"),
        (lambda c, paths, labels: c.fit([np.zeros((9, 9))], [["a"]]), "a list of image files.* not ndarray"),
        (lambda c, paths, labels: c.fit(paths, labels, "a title"), "give a list of texts or None"),
        (lambda c, paths, labels: c.fit(paths, labels, seed=-1), "seed is a whole number of at least 0, not -1"),
        (lambda c, paths, labels: c.fit(paths, labels, seed="1"), "seed is a whole number"),
        (lambda c, paths, labels: c.fit(paths, labels, validation="all"), "validation is a finite number"),
        (lambda c, paths, labels: c.fit(paths, labels, validation=1.5), "fractions must be"),
        (lambda c, paths, labels: c.fit(paths, labels, classes=["red"]), "none of the classes"),
        (lambda c, paths, labels: c.predict(paths), "not fitted yet"),
        (lambda c, paths, labels: c.classes_, "not fitted yet"),
        (lambda c, paths, labels: c.save("nowhere"), "not fitted yet"),
        (lambda c, paths, labels: MultiLabelClassifier("nope"), "unknown head 'nope'"),
        (lambda c, paths, labels: MultiLabelClassifier(["mld"]), r"unknown head \['mld'\]"),
        (lambda c, paths, labels: MultiLabelClassifier(training={"lr": 1}), "training is a TrainConfig, not a dict"),
        (lambda c, paths, labels: MultiLabelClassifier(options=[1]), "options is a Mapping, not a list"),
        (lambda c, paths, labels: MultiLabelClassifier(encoder=3), "an encoder is a name or a folder"),
        (lambda c, paths, labels: TrainConfig(seed=2**32), "seed is a whole number below"),
        (lambda c, paths, labels: TrainConfig(epochs=10**400), "epochs is a whole number of at least 0, not 10{39}$"),
        (lambda c, paths, labels: TrainConfig(lr=float("nan")), "lr is a finite number above 0, not nan"),
        (lambda c, paths, labels: TrainConfig(batch_size=1.5), "batch_size is a whole number of at least 1"),
        (lambda c, paths, labels: TrainConfig(loss_options={"gamma_neg": 2.0}), "bce has no parameter 'gamma_neg'"),
        (lambda c, paths, labels: ThresholdConfig("median"), "unknown thresholds 'median': choose one of per_class"),
    ],
)
def test_what_the_classifier_cannot_use_is_refused_with_the_right_form(use, message, pictures, encoder, tmp_path):
    classifier = MultiLabelClassifier("sigmoid", encoder, cache=tmp_path / "features")
    with pytest.raises(MlclipError, match=message):
        use(classifier, *pictures)
    assert not (tmp_path / "features").exists(), "and that before any work"
