"""Classes that come later: the old ones keep their scores, or the head says why not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from mlclip.checkpoint import load_run, save_run
from mlclip.data import write_manifest
from mlclip.errors import TrainError
from mlclip.heads import HEADS, Examples, Growth, Head, LabelTexts
from mlclip.heads.growth import joined_references
from mlclip.heads.mld import MLDecoder
from mlclip.settings import Recipe, TrainConfig
from mlclip.training.extend import TOLERANCE, extend_run, run_settings
from mlclip.training.loop import predict_scores
from mlclip.training.runs import evaluate_run, head_features, run_cache, train_run

KNOWN, ALL = ("blue", "green", "red"), ("blue", "green", "red", "white")
OPTIONS = {
    "mld": {"hidden": 32, "groups": 2},
    "classnet": {"temperature": 10.0},
}
QUICK = {
    "sigmoid": {"lr": 0.02, "epochs": 20, "patience": 20, "optimizer": "adam", "weight_decay": 0.0},
    "mld": {"lr": 2e-3, "epochs": 30, "batch_size": 16, "schedule": "constant"},
    "powerset": {"epochs": 2},
    "siglip": {"lr": 5e-4, "epochs": 2, "batch_size": 16},
    "classnet": {"epochs": 2},
    "fusion": {"lr": 2e-2, "epochs": 30, "batch_size": 16},
}
REFUSING = {"powerset", "blend"}
UNTAUGHT = {"siglip", "zeroshot"}  # a text tower with random weights knows nothing of a class it never saw
VARIANTS = [
    *((name, {}) for name in HEADS),
    ("mld", {"readout": "mean", "memory": "pooled"}),
    ("mld", {"queries": "fixed"}),
    ("mld", {"queries": "text"}),
    ("mld", {"groups": 3}),
    ("classnet", {"prototypes": None, "fine_tune": False}),
    ("fusion", {"head": "gmlp", "mode": "gated"}),
    ("fusion", {"head": "linear", "mode": "attention"}),
]


@pytest.fixture(scope="module")
def dataset(dataset):
    return replace(dataset, items=tuple(replace(item, text=" ".join(item.labels)) for item in dataset.items))


def trained(name, data, cache, options=None):
    training = replace(HEADS[name].defaults, **QUICK.get(name, {}))
    recipe = Recipe(name, {**OPTIONS.get(name, {}), **(options or {})}, training)
    return train_run(data, cache.encoder, cache, recipe)


def scores_of(run, part, cache):
    return predict_scores(run.head, head_features(run.head, part, run_cache(run, cache)))


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_old_classes_keep_their_scores_or_the_head_refuses(name, options, dataset, cache, tmp_path):
    run = trained(name, dataset.with_classes(KNOWN), cache, options)
    state = {key: value.clone() for key, value in run.head.state_dict().items()}
    if name in REFUSING:
        with pytest.raises(TrainError, match="train a new head on all labels"):
            extend_run(run, dataset, cache)
        return
    extension = extend_run(run, dataset, cache)
    before, after = (scores_of(which, dataset.split("test"), cache) for which in (run, extension.run))
    np.testing.assert_allclose(after[:, :3], before, rtol=0, atol=TOLERANCE)
    assert extension.largest_change <= TOLERANCE and not extension.note
    assert extension.run.labels == ALL and extension.added == ("white",)
    assert np.array_equal(extension.run.thresholds[:3], run.thresholds)
    assert extension.run.training["extended"][0]["labels"] == ["white"]
    if name not in UNTAUGHT and options.get("queries") != "text":
        truth = dataset.split("test").targets()[:, 3]
        assert average_precision_score(truth, after[:, 3]) > 0.8, f"chance is {truth.mean():.2f}"
    save_run(tmp_path / "run", extension.run)
    assert np.array_equal(scores_of(load_run(tmp_path / "run"), dataset.split("test"), cache), after)
    assert all(torch.equal(value, state[key]) for key, value in run.head.state_dict().items()), "the run stays"


def test_every_head_says_itself_how_it_grows():
    assert not [name for name, head in HEADS.items() if head.extended is Head.extended]


@pytest.mark.parametrize("name", ["neighbors", "knn1", "neighbornet"])
def test_images_that_join_the_references_move_scores_and_it_is_said(name, dataset, cache):
    options = {"temperature": 10.0} if name != "knn1" else {}
    some = replace(dataset, items=tuple(i for i in dataset.items if i.split != "train" or "white" not in i.labels))
    run = trained(name, some.with_classes(KNOWN), cache, options)
    extension = extend_run(run, dataset, cache)
    assert extension.largest_change > TOLERANCE
    assert extension.note == HEADS[name].growth_note != ""
    joined = len(extension.run.head.reference_ids) - len(run.head.reference_ids)
    assert joined == sum("white" in item.labels for item in dataset.split("train").items)
    truth = dataset.split("test").targets()[:, 3]
    assert average_precision_score(truth, scores_of(extension.run, dataset.split("test"), cache)[:, 3]) > 0.6


def test_classes_can_be_added_again_and_again(dataset, cache):
    run = trained("mld", dataset.with_classes(KNOWN[:2]), cache)
    first = extend_run(run, dataset.with_classes(KNOWN), cache).run
    second = extend_run(first, dataset, cache)
    assert second.run.head.config["segments"] == [[2, 2], [1, 1], [1, 1]]
    assert [step["labels"] for step in second.run.training["extended"]] == [["red"], ["white"]]
    test = dataset.split("test")
    np.testing.assert_allclose(scores_of(second.run, test, cache)[:, :2], scores_of(run, test, cache), atol=TOLERANCE)
    assert evaluate_run(second.run, dataset, cache).mean_average_precision > 0.8


def test_labels_come_behind_the_old_ones_in_whatever_order_the_data_has_them(dataset, cache):
    run = trained("sigmoid", dataset.with_classes(("red", "blue")), cache)
    extension = extend_run(run, dataset.with_classes(("white", "red", "green", "blue")), cache)
    assert extension.run.labels == ("red", "blue", "white", "green")
    metrics = extension.run.metrics["val"]
    assert [row["label"] for row in metrics["per_class"]] == ["red", "blue", "white", "green"]
    assert metrics["mean_average_precision"] > 0.9


def test_the_runs_own_settings_train_the_new_classes_unless_others_are_given(dataset, cache):
    run = trained("sigmoid", dataset.with_classes(KNOWN), cache)
    assert len(extend_run(run, dataset, cache).epochs) == 20
    given = replace(HEADS["sigmoid"].defaults, epochs=3)
    assert len(extend_run(run, dataset, cache, training=given).epochs) == 3


def test_what_is_trained_alone_takes_larger_steps(dataset, cache):
    for name, factor in (("sigmoid", 1), ("mld", 3)):
        run = trained(name, dataset.with_classes(KNOWN), cache)
        assert run_settings(run) == replace(HEADS[name].defaults, **(QUICK[name] | {"lr": QUICK[name]["lr"] * factor}))


def test_text_queries_train_their_new_texts_only_where_asked(dataset, cache):
    run = trained("mld", dataset.with_classes(KNOWN), cache, {"queries": "text"})
    untrained = extend_run(run, dataset, cache)
    assert not untrained.epochs
    training = TrainConfig(lr=0.03, epochs=40, patience=40, batch_size=16)
    asked = extend_run(run, dataset, cache, training=training)
    assert asked.epochs and asked.largest_change <= TOLERANCE
    texts = [extension.run.head.queries.text for extension in (untrained, asked)]
    assert torch.equal(texts[0][:3], texts[1][:3]) and not torch.equal(texts[0][3], texts[1][3])
    assert asked.epochs[-1].loss < 0.8 * asked.epochs[0].loss


def test_new_classes_without_validation_images_take_the_median_threshold(dataset, cache):
    run = trained("mld", dataset.with_classes(KNOWN), cache, {"queries": "text"})
    unseen = replace(dataset, classes=(*ALL, "violet"))
    bare = tuple(replace(item, labels=tuple(name for name in item.labels if name != "white")) for item in unseen.items)
    extension = extend_run(run, replace(unseen, items=bare), cache)
    assert extension.added == ("white", "violet")
    assert extension.run.thresholds[3:].tolist() == [np.median(run.thresholds)] * 2


def test_what_cannot_be_added_is_said(dataset, cache):
    run = trained("sigmoid", dataset.with_classes(KNOWN), cache)
    with pytest.raises(TrainError, match="there is nothing to add"):
        extend_run(run, dataset.with_classes(KNOWN), cache)
    with pytest.raises(TrainError, match="no training image has the new label 'violet'"):
        extend_run(run, replace(dataset, classes=(*ALL, "violet")), cache)
    items = tuple(
        replace(item, labels=tuple(name for name in item.labels if item.split != "val" or name != "white"))
        for item in dataset.items
    )
    with pytest.raises(TrainError, match="no validation image has a new label"):
        extend_run(run, replace(dataset, items=items), cache)


def test_each_part_of_an_extended_decoder_reads_its_own_groups():
    torch.manual_seed(0)
    segments = [[7, 3], [4, 2], [1, 1]]
    head = MLDecoder(12, 16, groups=6, hidden=24, segments=segments).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.randn(3, 5, 16)
    with torch.inference_mode():
        decoded, logits = head.decode(tokens).double().numpy(), head(tokens).numpy()
    weights = {name: value.double().numpy() for name, value in head.readout.state_dict().items()}
    columns, start = [], 0
    for number, (classes, groups) in enumerate(segments):
        size = int(np.ceil(classes / groups))
        weight, bias = weights[f"parts.{number}.weight"], weights[f"parts.{number}.bias"]
        for n in range(classes):
            columns.append(decoded[:, start + n // size] @ weight[n // size, :, n % size] + bias[n])
        start += groups
    np.testing.assert_allclose(logits, np.stack(columns, axis=1), rtol=0, atol=1e-5)


def test_segments_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="do not sum up to 12 classes and 6 groups"):
        MLDecoder(12, 16, groups=6, segments=[[7, 3], [4, 3]])


class Table:
    """Rows in memory, indexed as cached features are."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return (self.rows[index],)


@pytest.mark.parametrize("old_labels", [True, False])
def test_references_learn_new_labels_by_name_and_others_join(old_labels):
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    targets = np.array([[0, 1, 1], [1, 0, 1], [1, 0, 0], [0, 0, 1]], dtype=np.uint8)
    train = Examples(Table(rows), targets, ("b", "new", "plain", "other"))
    growth = Growth(train, train, LabelTexts(("x", "y", "z"), None), 2, False, None)
    ids, features, labels = joined_references(
        ("a", "b"), torch.ones(2, 2), torch.tensor([[1, 0], [0, 0]]), growth, old_labels=old_labels
    )
    assert ids == ("a", "b", "new", "other"), "an image without a new label does not join"
    assert features.tolist() == [[1, 1], [1, 1], [2, 3], [6, 7]]
    assert labels.tolist() == [[1, 0, 0], [0, 0, 1], [int(old_labels), 0, 1], [0, 0, 1]], "old labels of `b` stay"


def test_the_command_line_adds_classes(dataset, cache, tmp_path, mlclip):
    save_run(tmp_path / "run", trained("sigmoid", dataset.with_classes(KNOWN), cache))
    write_manifest(dataset, tmp_path / "all.jsonl")
    words = ("train", "--extend", tmp_path / "run", "--data", tmp_path / "all.jsonl", "--cache", cache.root)
    code, said, _ = mlclip(*words, "--epochs", 4)
    assert code == 0 and "added white; trained for 4 epochs; scores of the old classes stay" in said
    grown = load_run(tmp_path / "run-extended")
    assert grown.labels == ALL and grown.training["extended_from"] == str(tmp_path / "run")
    assert grown.training["data"] == [str(tmp_path / "all.jsonl")]
    code, _, said = mlclip(*words, "--head", "mld")
    assert code == 1 and "leave --head out" in said
    code, _, said = mlclip(*words, "--groups", 3)
    assert code == 1 and "leave --groups out" in said
