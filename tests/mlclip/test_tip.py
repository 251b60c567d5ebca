"""Tip-Adapter for several labels, against float64 loops written from the formula."""

import math

import numpy as np
import pytest
import torch

from mlclip.heads import FeatureShapes, LabelTexts, build_head
from mlclip.heads.tip import BETAS, SHARES, calibrate, search
from mlclip.metrics import mean_average_precision

from .made import examples_of, unit_rows

WIDTH, CLASSES = 6, 3
LABELS = ("dog", "playing card", "tree")


TEXT = torch.from_numpy(unit_rows(CLASSES, 9, WIDTH))
TEXTS = LabelTexts(
    LABELS, lambda texts: torch.stack([TEXT[n] for n, label in enumerate(LABELS) for t in texts if label in t])
)


def examples(count, seed):
    """Images whose labels depend on their embeddings, but not by way of the texts alone."""
    embedding = unit_rows(count, seed, WIDTH)
    targets = (embedding[:, :CLASSES] + 0.3 * embedding @ TEXT.numpy().T > 0.2).astype(np.uint8)
    return examples_of(embedding, targets, f"{seed}-")


def fitted(**options):
    head = build_head("tip", CLASSES, FeatureShapes(WIDTH, 0, 0), **options)
    head.prepare(examples(40, 1), examples(30, 2), TEXTS, seed=0)
    head.finish(examples(30, 2))
    return head.eval()


def z_of(image, references, labels, alpha, beta):
    z = [100 * sum(a * b for a, b in zip(image, text, strict=True)) for text in TEXT.double().numpy()]
    for reference, row in zip(references, labels, strict=True):
        cosine = sum(a * b for a, b in zip(image, reference, strict=True))
        for n in range(CLASSES):
            z[n] += alpha * math.exp(-beta * (1 - cosine)) * row[n]
    return z


def test_logits_equal_a_float64_computation():
    head, train, images = fitted(alpha=2.5, beta=5.5), examples(40, 1), unit_rows(4, 3, WIDTH)
    references = train.features[:][0].astype(np.float64)
    a, b = head.slope.item(), head.intercept.item()
    expected = [
        [a * z + b for z in z_of(image, references, train.targets, 2.5, 5.5)] for image in images.astype(np.float64)
    ]
    np.testing.assert_allclose(head(torch.from_numpy(images)).numpy(), expected, rtol=0, atol=1e-4)


def test_alpha_0_is_calibrated_zero_shot():
    head, images = fitted(alpha=0), torch.from_numpy(unit_rows(5, 3, WIDTH))
    zero_shot = build_head("zeroshot", CLASSES, FeatureShapes(WIDTH, 0, 0))
    zero_shot.prepare(None, None, TEXTS, seed=0)
    cosine = 2 * zero_shot(images) - 1
    torch.testing.assert_close(head(images), 100 * head.slope * cosine + head.intercept, rtol=0, atol=1e-4)


def test_training_images_are_the_references():
    head, train = fitted(), examples(40, 1)
    assert head.reference_ids == train.ids
    assert np.array_equal(head.reference_targets().numpy(), train.targets)


def test_what_is_found_is_no_worse_than_any_neighbour_on_the_grid():
    head, validation = fitted(), examples(30, 2)
    images, found = torch.from_numpy(validation.features[:][0]), head.facts()
    assert found == {
        name: pytest.approx(getattr(head, name).item()) for name in ("alpha", "beta", "slope", "intercept")
    }

    def quality(alpha, beta):
        z = head.by_text(images) + alpha * head.by_images(images, beta)
        return mean_average_precision(validation.targets, z.numpy())

    best = quality(found["alpha"], found["beta"])
    spread = head.by_text(images).numpy().std()
    share = found["alpha"] * head.by_images(images, found["beta"]).numpy().std() / spread
    for other in SHARES:
        assert best >= quality(other / share * found["alpha"], found["beta"]) - 1e-6
    for beta in BETAS:
        alpha = share * spread / head.by_images(images, beta).numpy().std()
        assert best >= quality(alpha, beta) - 1e-6
    assert best > quality(0, 1) + 0.05, "images must add to what texts know"


def test_numbers_that_are_given_are_kept():
    assert fitted(alpha=3, beta=7).facts() | {"slope": 0, "intercept": 0} == {
        "alpha": 3, "beta": 7, "slope": 0, "intercept": 0,
    }  # fmt: skip
    assert fitted(beta=7).facts()["beta"] == 7
    assert fitted(alpha=3).facts()["alpha"] == 3


def test_the_search_turns_images_off_where_they_only_disturb():
    rng = np.random.default_rng(5)
    targets = (rng.random((60, 2)) < 0.3).astype(np.uint8)
    alpha, _ = search(targets, targets * np.float32(10), lambda beta: rng.normal(size=(60, 2)).astype(np.float32))
    assert alpha == 0


def test_calibration_is_where_the_penalised_likelihood_is_flat():
    """In units of z's standard deviation: sum (p - y) = 0 and sum (p - y) x + w = 0, scikit-learn's C being 1."""
    rng = np.random.default_rng(6)
    z = rng.normal(30, 4, size=(200, 3)).astype(np.float32)
    targets = (rng.random((200, 3)) < 1 / (1 + np.exp(-(z - 33)))).astype(np.uint8)
    slope, intercept = calibrate(targets, z)
    mean, spread = z.astype(np.float64).mean(), z.astype(np.float64).std()
    flat_w, flat_b = slope * spread, 0.0
    for value, truth in zip(z.ravel().tolist(), targets.ravel().tolist(), strict=True):
        p = 1 / (1 + math.exp(-(slope * value + intercept)))
        flat_w += (p - truth) * (value - mean) / spread
        flat_b += p - truth
    assert abs(flat_w) < 0.05 and abs(flat_b) < 0.05
    assert slope == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("kind", ["separable", "misleading", "all", "constant"])
def test_calibration_keeps_the_order_and_stays_finite(kind):
    z = np.linspace(-50, 50, 40, dtype=np.float32).reshape(20, 2)
    targets = {"separable": z > 0, "misleading": z < 0, "all": z > -99, "constant": z > 0}[kind].astype(np.uint8)
    slope, intercept = calibrate(targets, z * 0 + 3 if kind == "constant" else z)
    assert 0 < slope < math.inf and math.isfinite(intercept)
    if kind == "misleading":
        assert 1 / (1 + math.exp(-intercept)) == pytest.approx(0.5, abs=0.01)


def test_onnx_equals_torch(graph_equals):
    graph_equals(fitted(), lambda n: [torch.from_numpy(unit_rows(n, n, WIDTH))])
