"""The simple neighbor net against plain loops in float64, its special cases, its gradients and its graph."""

import math

import numpy as np
import pytest
import torch

from mlclip.heads import FeatureShapes, build_head
from mlclip.heads.prototypes import make_prototypes
from mlclip.heads.temperature import TEMPERATURES
from mlclip.metrics import mean_average_precision
from mlclip.settings import TrainConfig
from mlclip.training.loop import predict_outputs, train_head

from .made import examples_of, scores_of, unit_rows

WIDTH, CLASSES, REFERENCES = 8, 5, 40


def examples(count=REFERENCES, seed=0):
    targets = (np.random.default_rng(seed + 100).random((count, CLASSES)) < 0.3).astype(np.uint8)
    return examples_of(unit_rows(count, seed), targets, f"{seed}/")


def prepared(train=None, **options):
    head = build_head("neighbornet", CLASSES, FeatureShapes(WIDTH, 0, 0), **options)
    head.prepare(train or examples(), examples(seed=1), None, 0)
    return head.eval()


def expected_scores(references, labels, queries, temperature):
    """ŷ = Lᵀ softmax(e^τ F q), one query and one reference after the other."""
    scores, weights = np.zeros((len(queries), labels.shape[1])), np.zeros((len(queries), len(references)))
    for b, query in enumerate(queries):
        scaled = [temperature * sum(float(f) * float(q) for f, q in zip(row, query, strict=True)) for row in references]
        total = sum(math.exp(value - max(scaled)) for value in scaled)
        for r, value in enumerate(scaled):
            weights[b, r] = math.exp(value - max(scaled)) / total
            for n in range(labels.shape[1]):
                scores[b, n] += weights[b, r] * float(labels[r, n])
    return scores, weights


@pytest.mark.parametrize("temperature", [0.5, 20.0, 105.6])
def test_scores_equal_an_independent_float64_computation(temperature):
    train, queries = examples(), unit_rows(6, 2)
    expected, _ = expected_scores(train.features[:][0], train.targets, queries, temperature)
    head = prepared(train, temperature=temperature)
    np.testing.assert_allclose(scores_of(head, queries), expected, rtol=0, atol=2e-5)
    np.testing.assert_allclose(scores_of(head.double(), queries.astype(np.float64)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("labels", ["averaged", "onehot"])
@pytest.mark.parametrize("grouping", ["random", "kmeans"])
def test_scores_of_prototypes_equal_float64_too(grouping, labels):
    train, queries = examples(), unit_rows(6, 2)
    made = make_prototypes(train.features[:][0], train.targets, 3, grouping=grouping, labels=labels, seed=0)
    head = prepared(train, prototypes=3, grouping=grouping, labels=labels, temperature=9.0)
    expected, _ = expected_scores(made.vectors, made.labels, queries, 9.0)
    np.testing.assert_allclose(scores_of(head, queries), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["neighbornet", "neighbors"])
def test_validation_chooses_the_temperature_with_the_best_map(name):
    def head_at(temperature):
        head = build_head(name, CLASSES, FeatureShapes(WIDTH, 0, 0), temperature=temperature)
        head.prepare(examples(200), validation, None, 0)
        return head.eval()

    def quality(temperature):
        return mean_average_precision(validation.targets, predict_outputs(head_at(temperature), validation.features))

    validation = examples(60, seed=1)
    qualities = {temperature: quality(temperature) for temperature in TEMPERATURES}
    chosen = head_at(None)
    assert len(set(qualities.values())) > 5, "it matters here"
    assert chosen.config["temperature"] == max(qualities, key=qualities.get)
    found = predict_outputs(chosen, validation.features)
    expected = predict_outputs(head_at(chosen.config["temperature"]), validation.features)
    np.testing.assert_array_equal(found, expected)


def test_the_heaviest_references_are_named():
    train, queries = examples(), unit_rows(4, 5)
    head = prepared(train, temperature=12.0)
    _, index, weight = (output.detach().numpy() for output in head(torch.from_numpy(queries)))
    _, weights = expected_scores(train.features[:][0], train.targets, queries, 12.0)
    assert head.outputs == ("scores", "reference_index", "reference_weight")
    assert head.reference_ids == train.ids
    np.testing.assert_array_equal(head.reference_targets().numpy(), train.targets)
    assert (index.dtype, index.shape) == (np.int32, (4, 32))
    np.testing.assert_array_equal(index, np.argsort(-weights, axis=1, kind="stable")[:, :32])
    np.testing.assert_allclose(weight, np.take_along_axis(weights, index.astype(int), 1), rtol=0, atol=1e-6)


def test_few_references_are_all_named():
    _, index, weight = prepared(examples(3))(torch.from_numpy(unit_rows(2, 1)))
    assert index.shape == (2, 3)
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("options", [{"prototypes": 2}, {"fine_tune": True}])
def test_averaged_or_moved_references_are_not_named(options):
    head = prepared(**options)
    assert (head.outputs, head.reference_ids) == (("scores",), ())
    assert not head.names_references


def test_references_can_be_exchanged():
    other, queries = examples(11, seed=4), unit_rows(3, 2)
    (embedding,) = other.features[:]
    changed = prepared(temperature=10.0).with_references(
        other.ids, torch.from_numpy(embedding), torch.from_numpy(other.targets)
    )
    assert changed.reference_ids == other.ids
    np.testing.assert_array_equal(changed.reference_features().numpy(), embedding)
    np.testing.assert_array_equal(scores_of(changed, queries), scores_of(prepared(other, temperature=10.0), queries))


def test_the_loss_is_the_mean_squared_error_of_the_scores():
    head, queries = prepared(temperature=10.0), unit_rows(6, 2)
    targets = examples(6, seed=7).targets
    expected, _ = expected_scores(head.references.detach(), head.labels, queries, 10.0)
    loss = head.loss([torch.from_numpy(queries)], torch.from_numpy(targets).float())
    assert loss.item() == pytest.approx(((expected - targets) ** 2).mean(), abs=1e-6)


def test_gradients_flow_to_references_and_temperature_alone():
    head = prepared(prototypes=3, fine_tune=True, temperature=10.0)
    batch = examples(6, seed=7)
    head.loss([torch.from_numpy(batch.features[:][0])], torch.from_numpy(batch.targets).float()).backward()
    assert [name for name, _ in head.named_parameters()] == ["log_temperature", "references"]
    assert head.log_temperature.grad.abs() > 0
    assert (head.references.grad.abs().amax(dim=1) > 0).all()
    assert not head.labels.requires_grad


def test_gradient_of_the_temperature_equals_a_finite_difference():
    head, batch, step = prepared(prototypes=3, fine_tune=True, temperature=10.0).double(), examples(6, seed=7), 1e-5
    targets = batch.targets.astype(np.float64)
    head.loss([torch.from_numpy(batch.features[:][0]).double()], torch.from_numpy(targets)).backward()
    errors = []
    for tau in (math.log(10.0) + step, math.log(10.0) - step):
        expected, _ = expected_scores(head.references.detach(), head.labels, batch.features[:][0], math.exp(tau))
        errors.append(((expected - targets) ** 2).mean())
    assert head.log_temperature.grad.item() == pytest.approx((errors[0] - errors[1]) / (2 * step), rel=1e-4)


def test_fine_tuning_lowers_the_error_and_leaves_the_labels():
    train, settings = examples(), TrainConfig(optimizer="sgd", schedule="cosine", momentum=0.4, lr=5.0, epochs=8)
    head = prepared(train, prototypes=3, fine_tune=True, temperature=5.0)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    history = train_head(head, train, examples(seed=1), settings)
    assert history[-1].loss < history[0].loss
    changed = {name for name, value in head.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"references", "log_temperature"}


def test_a_net_without_fine_tuning_is_not_trained():
    head = prepared()
    assert train_head(head, examples(), examples(seed=1), TrainConfig(lr=9.0, epochs=3)) == []
    np.testing.assert_array_equal(head.references.numpy(), examples().features[:][0])


@pytest.mark.parametrize("options", [{"temperature": 33.0}, {"prototypes": 3, "fine_tune": True}])
def test_its_graph_and_its_run_folder_give_the_same_scores(options, graph_equals, reloaded):
    head, queries = prepared(**options), unit_rows(4, 2)
    graph_equals(head, lambda n: [torch.from_numpy(unit_rows(n, n))])
    np.testing.assert_array_equal(scores_of(reloaded(head), queries), scores_of(head, queries))
