"""The sigmoid head against scikit-learn's logistic regression, and the steps of training."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mlclip.heads import FeatureShapes, build_head
from mlclip.heads.base import first_output, tensors
from mlclip.losses import LOSSES
from mlclip.settings import TrainConfig
from mlclip.training.loop import predict_scores, run_epochs, train_head

from .made import examples_of, unit_rows

WIDTH, CLASSES, IMAGES = 8, 3, 200


def examples(seed):
    rows, rng = unit_rows(IMAGES, seed), np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-8 * rows[:, :CLASSES] + 1))
    return examples_of(rows, (rng.random((IMAGES, CLASSES)) < chance).astype(np.uint8))


@pytest.mark.parametrize("penalty", [10.0, 0.1, 1e-3])
def test_each_class_is_logistic_regression_with_this_penalty(penalty):
    train, validation = examples(0), examples(1)
    head = build_head("sigmoid", CLASSES, FeatureShapes(WIDTH, 0, 0))
    train_head(head, train, validation, TrainConfig(optimizer="lbfgs", lr=1.0, epochs=1, weight_decay=penalty))
    found = predict_scores(head, validation.features)
    rows, asked = (part.features[:][0] * head.scale for part in (train, validation))
    for n in range(CLASSES):
        reference = LogisticRegression(C=1 / (penalty * IMAGES), tol=1e-8, max_iter=10_000)
        expected = reference.fit(rows, train.targets[:, n]).predict_proba(asked)[:, 1]
        np.testing.assert_allclose(found[:, n], expected, atol=2e-3)


def test_validation_chooses_the_penalty():
    train, validation = examples(0), examples(1)
    head = build_head("sigmoid", CLASSES, FeatureShapes(WIDTH, 0, 0))
    history = train_head(head, train, validation, head.defaults)
    best = max(history, key=lambda epoch: epoch.validation_map)
    assert len({epoch.validation_map for epoch in history}) > 1
    again = build_head("sigmoid", CLASSES, FeatureShapes(WIDTH, 0, 0))
    only = TrainConfig(optimizer="lbfgs", lr=1.0, epochs=1, weight_decay=10.0 * 10 ** ((1 - best.number) / 2))
    train_head(again, train, validation, only)
    found, expected = (predict_scores(one, validation.features) for one in (head, again))
    np.testing.assert_allclose(found, expected, atol=5e-3)


@pytest.mark.parametrize("loss", ["asl", "apl"])
def test_a_focused_loss_is_minimised_as_it_is(loss):
    train, validation = examples(0), examples(1)

    def final(**options):
        head = build_head("sigmoid", CLASSES, FeatureShapes(WIDTH, 0, 0))
        settings = {"loss": loss, "loss_options": {"gamma_neg": 4, "shift": 0.05, **options}}
        train_head(head, train, validation, TrainConfig(optimizer="lbfgs", lr=1.0, epochs=1, **settings))
        logits = first_output(head, tensors(train.features, slice(None)))
        return LOSSES[loss](logits, torch.from_numpy(train.targets).float(), **settings["loss_options"]).item()

    assert final() == pytest.approx(final(detach_focus=False), rel=1e-3)
    assert final() < 0.9 * final(detach_focus=True)


@pytest.mark.parametrize(("images", "sizes"), [(5, [1] * 5), (40, [2] * 20), (600, [31] * 11 + [32] * 8)])
def test_few_images_make_small_batches_not_few_steps(images, sizes):
    layer, found = torch.nn.Linear(1, 1), []

    def loss(rows, rng):
        found.append(len(rows))
        return layer.weight.square().sum()

    scores, targets = np.ones((2, 1), np.float32), np.ones((2, 1), np.uint8)
    config = TrainConfig(epochs=1, batch_size=32, least_steps=16)
    run_epochs(layer, list(layer.parameters()), images, loss, lambda: scores, targets, config, lambda epoch: None)
    assert sorted(found) == sizes
