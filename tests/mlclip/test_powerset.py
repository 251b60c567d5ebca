"""Label sets as classes, against float64 loops written from the formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mlclip.checkpoint import save_run
from mlclip.cli import app
from mlclip.data import Dataset, Item, write_manifest
from mlclip.heads import HEADS, FeatureShapes, LabelTexts, build_head
from mlclip.heads.powerset import PowersetHead, Unseen
from mlclip.settings import Recipe
from mlclip.training.runs import train_run

from .made import examples_of

WIDTH = 8
SETS = [(0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 1, 0)]
TEXTS = LabelTexts(("a", "b", "c"), lambda texts: torch.zeros(len(texts), WIDTH))


def examples(targets):
    targets = np.array(targets, dtype=np.uint8)
    table = np.random.default_rng(0).normal(size=(len(targets), WIDTH)).astype(np.float32)
    return examples_of(table, targets)


def random_head(seed=0, **options):
    torch.manual_seed(seed)
    head = PowersetHead(3, WIDTH, **options)
    with torch.no_grad():
        head.prepare(examples(SETS * 2), examples(SETS[:1]), TEXTS, seed=0)
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return head.eval()


def set_probabilities(head, embedding):
    """One image's probabilities of the label sets, in float64."""
    w = {name: value.detach().double().numpy() for name, value in head.state_dict().items()}
    x = embedding.astype(np.float64) * head.scale
    hidden = np.maximum(w["down.weight"] @ x + w["down.bias"], 0)
    adapted = np.maximum(w["up.weight"] @ hidden + w["up.bias"], 0)
    ratio = head.config["ratio"]
    logits = w["linear.weight"] @ (ratio * adapted + (1 - ratio) * x) + w["linear.bias"]
    shares = [math.exp(logit - max(logits)) for logit in logits]
    return [share / sum(shares) for share in shares]


def test_marginals_sum_the_probabilities_of_the_sets_that_hold_a_label():
    head, images = random_head(ratio=0.3), np.random.default_rng(1).normal(size=(5, WIDTH)).astype(np.float32)
    expected = np.zeros((5, 3))
    for i, image in enumerate(images):
        for members, probability in zip(SETS, set_probabilities(head, image), strict=True):
            for n in range(3):
                expected[i, n] += members[n] * probability
    np.testing.assert_allclose(head(torch.from_numpy(images)).detach().numpy(), expected, rtol=0, atol=1e-5)


def test_the_winner_gives_the_labels_of_the_most_probable_set():
    head, images = random_head(decode="winner"), np.random.default_rng(2).normal(size=(40, WIDTH)).astype(np.float32)
    expected = [SETS[int(np.argmax(set_probabilities(head, image)))] for image in images]
    assert len(set(expected)) > 1
    assert head(torch.from_numpy(images)).tolist() == [list(members) for members in expected]


def test_every_different_set_of_training_is_a_class_the_empty_one_too():
    head = random_head()
    assert head.members.int().tolist() == [list(members) for members in SETS]
    assert head.config["sets"] == head.linear.out_features == 4
    assert head.facts()["label_sets"] == 4
    assert head.facts()["empty_set_is_one_of_them"] is True


def test_sets_that_training_never_held_are_counted():
    head = build_head("powerset", 3, FeatureShapes(WIDTH, 0, 0))
    new = [(1, 1, 1), (1, 1, 1), (0, 1, 0)]
    head.prepare(examples(SETS[1:]), examples([*SETS, *new]), TEXTS, seed=0)
    assert head.facts() == {
        "label_sets": 3, "empty_set_is_one_of_them": False, "validation_images_of_unseen_sets": 4,
        "validation_unseen_sets": 3,
    }  # fmt: skip
    assert head.unseen(np.array(new)) == Unseen(images=3, sets=2)
    assert head.unseen(np.array(SETS[1:])) == Unseen(images=0, sets=0)


def test_the_loss_is_the_cross_entropy_of_an_images_own_set():
    head, images = random_head(), np.random.default_rng(3).normal(size=(6, WIDTH)).astype(np.float32)
    own = [2, 0, 3, 1, 1, 2]
    total = 0.0
    for image, index in zip(images, own, strict=True):
        total -= math.log(set_probabilities(head, image)[index])
    targets = torch.tensor([SETS[index] for index in own]).float()
    assert head.index(targets).tolist() == own
    assert head.loss([torch.from_numpy(images)], targets).item() == pytest.approx(total / 6, rel=1e-5)


def test_a_set_that_the_head_does_not_know_has_no_index():
    with pytest.raises(ValueError, match="does not know"):
        random_head().index(torch.tensor([[1.0, 1.0, 1.0]]))


@pytest.mark.parametrize("decode", ["marginals", "winner"])
def test_onnx_equals_torch(decode, graph_equals):
    graph_equals(random_head(decode=decode), lambda n: [torch.randn(n, WIDTH)], atol=1e-6)


def test_eval_says_how_many_label_sets_the_run_never_saw(pictures, encoder, cache, tmp_path):
    splits = ("train", "train", "val", "test")
    pairs = list(zip(*pictures, strict=True))
    items = [
        Item(path, names, split="test" if "green" in names else splits[n % 4]) for n, (path, names) in enumerate(pairs)
    ]
    dataset = Dataset(tuple(items), ("blue", "green", "red", "white"))
    write_manifest(dataset, tmp_path / "data.jsonl")
    known = {item.labels for item in items if item.split == "train"}
    test = [item.labels for item in items if item.split == "test"]
    new = [names for names in test if names not in known]
    assert 1 < len(set(new)) < len(set(test)) and len(new) < len(test)
    words = ["--data", str(tmp_path / "data.jsonl"), "--cache", str(cache.root)]
    for head in ("powerset", "knn1"):
        training = replace(HEADS[head].defaults, epochs=min(1, HEADS[head].defaults.epochs))
        save_run(tmp_path / head, train_run(dataset, encoder, cache, Recipe(head, {}, training)))
        result = CliRunner().invoke(app, ["eval", str(tmp_path / head), *words], catch_exceptions=False)
        assert result.exit_code == 0
        sets = f"{len(set(new))} of the {len(set(test))} label sets of test were not in training"
        said = f"{sets}, on {len(new)} of {len(test)} images"
        assert (said in " ".join(result.output.split())) == (head == "powerset")
