"""The class-wise neighbor net against plain loops in float64, its limits, its gradients, its memory and its graph."""

import math

import numpy as np
import pytest
import torch

from mlclip.heads import FeatureShapes, build_head
from mlclip.heads.prototypes import make_prototypes
from mlclip.settings import TrainConfig
from mlclip.training.loop import train_head

from .made import examples_of, scores_of, unit_rows

WIDTH, CLASSES = 8, 5


def examples(count=40, seed=0, targets=None):
    if targets is None:
        targets = (np.random.default_rng(seed + 100).random((count, CLASSES)) < 0.3).astype(np.uint8)
    return examples_of(unit_rows(count, seed), targets)


def prepared(train=None, **options):
    train = train or examples()
    options = {"prototypes": None, "fine_tune": False, **options}
    head = build_head("classnet", train.targets.shape[1], FeatureShapes(WIDTH, 0, 0), **options)
    head.prepare(train, examples(seed=1), None, 0)
    return head.eval()


def expected_scores(references, targets, queries, temperature):
    """One query and one class after the other; only that class's references are looked at."""
    scores = np.zeros((len(queries), targets.shape[1]))
    for b, query in enumerate(queries):
        for n in range(targets.shape[1]):
            own = [row for row, labels in zip(references, targets, strict=True) if labels[n]]
            similar = [sum(float(f) * float(q) for f, q in zip(row, query, strict=True)) for row in own]
            if similar:
                shares = [math.exp(temperature * (s - max(similar))) for s in similar]
                mean = sum(share * s for share, s in zip(shares, similar, strict=True)) / sum(shares)
                scores[b, n] = (mean + 1) / 2
    return scores


@pytest.mark.parametrize("count", [40, 700])  # 700 images: several chunks a class
@pytest.mark.parametrize("temperature", [0, 1.0, 30.0])  # at 0 the score is the mean similarity
def test_scores_equal_an_independent_float64_computation(count, temperature):
    train, queries = examples(count), unit_rows(6, 2)
    expected = expected_scores(train.features[:][0], train.targets, queries, temperature)
    head = prepared(train, temperature=temperature)
    np.testing.assert_allclose(scores_of(head, queries), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores_of(head.double(), queries.astype(np.float64)), expected, rtol=0, atol=1e-9)


def test_large_classes_take_several_chunks_and_small_ones_are_filled_up():
    targets = np.zeros((200, 3), dtype=np.uint8)
    targets[:130, 0], targets[130:, 1] = 1, 1
    head = prepared(examples(200, targets=targets))
    assert (head.config["references"], head.config["pairs"], head.config["chunks"]) == (200, [5, 64], 3)
    assert head.paired.sum() == targets.sum()


@pytest.mark.parametrize("grouping", ["random", "kmeans"])
def test_prototypes_belong_to_the_class_they_were_made_for(grouping):
    train, queries = examples(), unit_rows(6, 2)
    made = make_prototypes(train.features[:][0], train.targets, 4, grouping=grouping, seed=0)
    own = np.repeat(np.eye(CLASSES), 4, axis=0)
    head = prepared(train, prototypes=4, grouping=grouping, temperature=7.0)
    expected = expected_scores(made.vectors[made.filled], own[made.filled], queries, 7.0)
    np.testing.assert_allclose(scores_of(head, queries), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("temperature", [1e6, 1e30])
def test_towards_infinity_the_score_is_the_highest_similarity(temperature):
    train, queries = examples(700), unit_rows(6, 2)
    similar = queries @ train.features[:][0].T
    highest = np.stack([similar[:, train.targets[:, n] > 0].max(axis=1) for n in range(CLASSES)], axis=1)
    scores = scores_of(prepared(train, temperature=temperature), queries)
    np.testing.assert_allclose(scores, (highest + 1) / 2, rtol=0, atol=1e-6)


def test_a_class_without_references_scores_0_and_gets_no_gradient():
    train = examples()
    train.targets[:, 2] = 0
    for options in ({}, {"prototypes": 4, "grouping": "kmeans"}):
        head = prepared(train, fine_tune=True, **options)
        scores = head(torch.from_numpy(unit_rows(6, 2)))
        assert (scores[:, 2] == 0).all()
        assert (np.delete(scores.detach().numpy(), 2, axis=1) > 0).all()
        scores.sum().backward()
        assert head.references.grad.isfinite().all()


def test_each_class_is_stabilised_by_its_own_maximum():
    """Class 1 lies opposite to the query, where e^(t (s - 1)) is 0 in float32."""
    references = np.zeros((4, WIDTH), dtype=np.float32)
    references[:2, 0], references[2, 0], references[3, 1] = 1, -1, 1
    targets = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=np.uint8)
    train = examples_of(references, targets)
    query = np.zeros((1, WIDTH), dtype=np.float32)
    query[0, 0] = 1
    np.testing.assert_allclose(scores_of(prepared(train, temperature=500.0), query), [[1, 0.5]], rtol=0, atol=1e-6)


def test_empty_clusters_are_left_out():
    """Twelve copies of one picture fill one of three clusters; zero vectors would pull its score to one half."""
    copies = np.tile(unit_rows(1, 0), (12, 1))
    train = examples_of(copies, np.ones((12, 1), np.uint8))
    head = prepared(train, prototypes=3, grouping="kmeans", temperature=0)
    assert len(head.references) == 1
    np.testing.assert_allclose(scores_of(head, copies[:1]), [[1]], rtol=0, atol=1e-6)


def test_gradients_flow_to_the_references_alone_and_equal_finite_differences():
    head = prepared(prototypes=3, fine_tune=True, temperature=6.0).double()
    queries, targets = torch.from_numpy(unit_rows(6, 7)).double(), torch.from_numpy(examples(6, 7).targets).double()
    assert [name for name, _ in head.named_parameters()] == ["references"]

    def error(references):
        with torch.no_grad():
            head.references.copy_(references)
        return head.loss([queries], targets)

    start = head.references.detach().clone()
    error(start).backward()
    step, random = 1e-5, torch.randn(start.shape, generator=torch.Generator().manual_seed(0)).double()
    slope = (error(start + step * random) - error(start - step * random)) / (2 * step)
    assert (head.references.grad * random).sum().item() == pytest.approx(slope.item(), rel=1e-5)


def test_the_loss_is_the_mean_squared_error_of_the_uncut_scores():
    head, queries = prepared(fine_tune=True, temperature=0.01), unit_rows(6, 2)
    with torch.no_grad():
        head.references.mul_(60)  # similarities leave [-1, 1], as they may after fine-tuning
    expected = expected_scores(head.references.detach(), examples().targets, queries, 0.01)
    assert expected.min() < 0 < 1 < expected.max()
    targets = examples(6, seed=7).targets
    loss = head.loss([torch.from_numpy(queries)], torch.from_numpy(targets).float())
    assert loss.item() == pytest.approx(((expected - targets) ** 2).mean(), rel=1e-5)
    np.testing.assert_allclose(scores_of(head, queries), expected.clip(0, 1), rtol=0, atol=1e-5)


def test_fine_tuning_lowers_the_error_and_moves_the_references_alone():
    train, settings = examples(), TrainConfig(optimizer="sgd", schedule="cosine", momentum=0.9, lr=4.0, epochs=8)
    head = prepared(train, prototypes=3, fine_tune=True)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    history = train_head(head, train, examples(seed=1), settings)
    assert history[-1].loss < history[0].loss
    assert {name for name, value in head.state_dict().items() if not torch.equal(value, before[name])} == {"references"}


def test_no_tensor_grows_with_references_times_classes_times_batch(largest_tensor):
    references, classes, batch = 2000, 159, 32
    targets = (np.random.default_rng(0).random((references, classes)) < 0.0116).astype(np.uint8)
    head = prepared(examples(references, targets=targets), fine_tune=True, temperature=5.0)
    queries, truth = torch.from_numpy(unit_rows(batch, 1)), torch.zeros(batch, classes)
    with largest_tensor as largest:
        head.loss([queries], truth).backward()
        head(queries)
    assert references * batch <= largest.elements < references * classes * batch / 20


@pytest.mark.parametrize("options", [{}, {"prototypes": 3, "grouping": "kmeans", "fine_tune": True}])
def test_its_graph_and_its_run_folder_give_the_same_scores(options, graph_equals, reloaded):
    head, queries = prepared(examples(300), temperature=20.0, **options), unit_rows(4, 2)
    graph_equals(head, lambda n: [torch.from_numpy(unit_rows(n, n))])
    np.testing.assert_array_equal(scores_of(reloaded(head), queries), scores_of(head, queries))


def test_images_without_labels_are_refused():
    with pytest.raises(ValueError, match="no image has a label"):
        prepared(examples(targets=np.zeros((40, CLASSES), np.uint8)))
