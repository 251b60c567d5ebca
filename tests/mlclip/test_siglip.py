"""The head `siglip` against float64 loops, and the draw of label texts."""

import math

import numpy as np
import pytest
import torch

from mlclip.heads import FeatureShapes, LabelTexts, build_head
from mlclip.heads.siglip import SiglipHead
from mlclip.heads.values import label_prompts
from mlclip.losses import bce
from mlclip.training.finetune import draw_classes

from .made import unit_rows


def random_head(classes=5, width=8, **options):
    head = SiglipHead(classes, width, **options)
    head.texts.copy_(torch.from_numpy(unit_rows(classes, 1, width)))
    return head.eval()


def test_logits_are_scaled_similarities_plus_a_bias():
    head, images = random_head(scale=12.0, bias=-7.0), torch.from_numpy(unit_rows(3, 2))
    expected = np.empty((3, 5))
    for i, image in enumerate(images.double().numpy()):
        for n, text in enumerate(head.texts.double().numpy()):
            expected[i, n] = 12.0 * sum(a * b for a, b in zip(image, text, strict=True)) - 7.0
    np.testing.assert_allclose(head(images).detach().numpy(), expected, rtol=0, atol=1e-5)


def test_the_papers_loss_is_bce_times_the_number_of_texts():
    """Zhai et al. 2023: -1/B sum over images and texts of log sigmoid(z (t x.y + b)), z = 1 or -1."""
    head, images = random_head(), torch.from_numpy(unit_rows(4, 3))
    targets = (torch.rand(4, 5, generator=torch.Generator().manual_seed(4)) < 0.4).float()
    logits = head(images).detach()
    total = 0.0
    for i in range(4):
        for n in range(5):
            z = 1 if targets[i, n] else -1
            total += math.log1p(math.exp(-z * logits[i, n].item()))
    assert 5 * bce(logits, targets).item() == pytest.approx(total / 4, rel=1e-6)


def test_without_numbers_of_its_own_the_start_is_the_papers():
    head = SiglipHead(2, 4)
    assert head.log_scale.item() == pytest.approx(math.log(10)) and head.bias.item() == -10
    assert SiglipHead(2, 4, scale=3.0, bias=0.5).bias.item() == 0.5


def test_training_starts_from_the_checkpoints_scale_and_bias_unless_they_are_given():
    logits, targets = unit_rows(6, 1, 2), np.eye(2, dtype=np.uint8)[[0, 1, 0, 1, 0, 1]]
    for options, expected in (({}, (90.0, -12.0)), ({"scale": 3.0}, (3.0, -10.0))):
        head = SiglipHead(2, 4, **options)
        head.calibrate(logits, targets, (90.0, -12.0))
        assert (head.log_scale.exp().item(), head.bias.item()) == pytest.approx(expected)


def test_prepare_keeps_the_texts_of_the_labels(encoder):
    head = build_head("siglip", 2, FeatureShapes(encoder.embedding_width, 0, 0))
    with torch.no_grad():
        head.prepare(None, None, LabelTexts(("red", "blue"), encoder.encode_text), seed=0)
    torch.testing.assert_close(head.texts, encoder.encode_text(["a photo of a red", "a photo of a blue"]))
    assert label_prompts(("red",)) == ["a photo of a red"]


def test_few_classes_are_all_drawn_and_count_once():
    targets = np.array([[1, 0, 0], [0, 0, 1]], dtype=np.uint8)
    columns, weights = draw_classes(targets, 8, np.random.default_rng(0))
    assert sorted(columns) == [0, 1, 2] and weights.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("limit", "drawn"), [(6, 6), (2, 3), (30, 12)])
def test_positive_classes_are_always_drawn_and_others_fill_up(limit, drawn):
    targets = np.zeros((4, 12), dtype=np.uint8)
    targets[[0, 1], [3, 7]] = 1
    columns, weights = draw_classes(targets, limit, np.random.default_rng(0))
    assert len(set(columns)) == len(columns) == drawn and {3, 7} <= set(columns)
    assert weights.sum() == pytest.approx(12), "together they count for all classes"


def test_sampled_losses_are_right_on_average():
    rng = np.random.default_rng(0)
    targets = (rng.random((4, 30)) < 0.05).astype(np.uint8)
    losses = rng.random((4, 30))
    found = []
    for _ in range(4000):
        columns, weights = draw_classes(targets, 10, rng)
        found.append((losses[:, columns] * weights).sum())
    assert np.mean(found) == pytest.approx(losses.sum(), rel=0.01)
    assert np.std(found) > 0.1, "a draw of all classes would prove nothing"
