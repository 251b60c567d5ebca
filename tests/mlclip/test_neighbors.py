from dataclasses import replace

import numpy as np
import pytest
import torch

from mlclip.heads import FeatureShapes, Growth, LabelTexts
from mlclip.heads.knn1 import NearestNeighbor
from mlclip.heads.neighbors import NeighborSearch, neighbor_weights

from .made import examples_of

R, D, N = 300, 16, 12


def clustered(seed, count):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(20, D))
    return (centres[rng.integers(20, size=count)] + rng.normal(scale=0.3, size=(count, D))).astype(np.float32)


def examples(seed, count):
    targets = (np.random.default_rng(seed).random((count, N)) < 0.3).astype(np.uint8)
    return examples_of(clustered(seed, count), targets)


def prepared(kind=NeighborSearch, train=None, **options):
    head = kind.build(N, FeatureShapes(D, 0, 0), **options)
    head.prepare(examples(1, R) if train is None else train, examples(2, 40), None, 0)
    return head.eval()


def expected(train, queries, temperature, max_difference=5.2568, max_neighbors=36, stop_weight=1.0):
    """The same in float64, one image and one reference at a time: scores, indices, weights of those that count."""
    answers = []
    references = train.features[slice(None)][0].astype(np.float64)
    for query in queries.astype(np.float64):
        similar = []
        for r, reference in enumerate(references):
            cosine = query @ reference / np.linalg.norm(query) / np.linalg.norm(reference)
            similar.append((-cosine, r))
        nearest = [(-s * temperature, r) for s, r in sorted(similar)[:max_neighbors]]
        kept = [(s, r) for s, r in nearest if s >= nearest[0][0] - max_difference]
        total = sum(np.exp(s - kept[0][0]) for s, _ in kept)
        scores, weights = np.zeros(N), []
        for s, r in kept:
            if sum(weights) >= stop_weight - 1e-12 and stop_weight < 1:
                break
            weights.append(np.exp(s - kept[0][0]) / total)
            for n in range(N):
                scores[n] += weights[-1] * train.targets[r, n]
        answers.append((scores, [r for _, r in kept][: len(weights)], weights))
    return answers


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 68.566},
        {"temperature": 10.0, "max_difference": 1.5, "max_neighbors": 200},
        {"temperature": 3.0, "max_difference": 8.0, "max_neighbors": 5},
        {"temperature": 0.0, "max_difference": 0.0, "max_neighbors": 7},
        {"temperature": 68.566, "max_neighbors": R + 50},
        {"temperature": 10.0, "stop_weight": 0.7},
    ],
    ids=str,
)
def test_scores_are_those_of_a_float64_loop(settings):
    train, queries = examples(1, R), clustered(3, 9)
    scores, index, weight = prepared(train=train, **settings)(torch.from_numpy(queries))
    assert (scores.dtype, index.dtype, weight.dtype) == (torch.float32, torch.int32, torch.float32)
    assert index.shape == weight.shape == (9, min(R, settings.get("max_neighbors", 36)))
    counts = set()
    for row, (true_scores, true_index, true_weight) in enumerate(expected(train, queries, **settings)):
        counts.add(len(true_index))
        np.testing.assert_allclose(scores[row], true_scores, atol=1e-5)
        assert index[row, : len(true_index)].tolist() == true_index
        np.testing.assert_allclose(weight[row, : len(true_index)], true_weight, atol=1e-5)
        assert not weight[row, len(true_index) :].any()
    assert max(counts) > 1


def test_one_neighbor_is_knn1():
    queries = torch.from_numpy(clustered(3, 50))
    search, nearest = prepared(max_neighbors=1), prepared(NearestNeighbor)
    for one, other in zip(search(queries), nearest(queries), strict=True):
        assert torch.equal(one, other)
    scores, index, weight = nearest(queries)
    assert torch.equal(scores, nearest.reference_targets()[index[:, 0].long()].float()) and (weight == 1).all()
    assert 0 < scores.mean() < 1


def test_equal_references_count_by_lowest_index():
    train = examples(1, R)
    store = train.features.tables[0].store.copy()
    store[[7, 20, 21, 250, 299]] = store[100]
    train = examples_of(store, train.targets)
    query = torch.from_numpy(store[[100]])
    assert prepared(train=train, max_neighbors=3)(query)[1].tolist() == [[7, 20, 21]]
    assert prepared(NearestNeighbor, train=train)(query)[1].tolist() == [[7]]
    assert prepared(train=train, max_neighbors=8)(query)[1][0, :6].tolist() == [7, 20, 21, 100, 250, 299]


def test_a_neighbor_exactly_max_difference_away_counts():
    similarity = torch.tensor([[1.0, 0.75, 0.5]])
    weight = neighbor_weights(similarity, temperature=8.0, max_difference=2.0)
    shares = np.exp([0.0, -2.0]) / np.exp([0.0, -2.0]).sum()
    np.testing.assert_allclose(weight, [[*shares, 0.0]], atol=1e-7)
    nearly = neighbor_weights(similarity, temperature=8.0, max_difference=float(np.nextafter(2.0, 0, dtype=np.float32)))
    assert nearly.tolist() == [[1.0, 0.0, 0.0]]


def test_the_onnx_graph_computes_what_torch_does_ties_included(graph_equals):
    train = examples(1, R)
    store = train.features.tables[0].store.copy()
    store[150:] = np.repeat(store[150::10], 10, axis=0)
    head = prepared(train=examples_of(store, train.targets), stop_weight=0.9)
    session = graph_equals(head, lambda n: [torch.from_numpy(np.concatenate([clustered(n, n), store[[222]]]))])
    _, index, _ = session.run(list(head.outputs), {"embedding": store[[222]]})
    assert index[0, 0] == 220, "the first of ten equal ones"


def test_nothing_grows_with_images_times_references_times_labels(largest_tensor):
    head = prepared(max_neighbors=10)
    with largest_tensor as largest:
        head(torch.from_numpy(clustered(3, 32)))
    assert largest.elements == 32 * R


def test_new_classes_come_with_the_references_that_have_them():
    store = clustered(1, R)
    store /= np.linalg.norm(store, axis=1, keepdims=True)
    train = examples_of(store, examples(1, R).targets)
    head = NeighborSearch(10, D, temperature=20.0, max_neighbors=5)
    head.prepare(replace(train, targets=train.targets[:, :10]), examples(2, 40), None, 0)
    old = head.with_references(head.reference_ids[:200], head.features[:200], head.labels[:200])
    part = replace(train, targets=train.targets.copy())
    part.targets[250:, 10:] = 0
    grown = old.extended(Growth(part, part, LabelTexts(tuple("abcdefghijkl"), lambda texts: None), 10, False, fail))
    joined = [n for n in range(200, R) if part.targets[n, 10:].any()]
    assert grown.reference_ids == tuple(train.ids[n] for n in [*range(200), *joined]) and 0 < len(joined) < 50
    assert torch.equal(grown.labels, torch.from_numpy(part.targets[[*range(200), *joined]]))
    queries = torch.from_numpy(clustered(3, 60))
    before, (after, index, weight) = old(queries)[0], grown(queries)
    untouched = ((index < 200) | (weight == 0)).all(dim=1)
    assert untouched.any() and not untouched.all()
    np.testing.assert_allclose(after[untouched, :10], before[untouched], atol=1e-6)
    assert after[:, 10:].any() and grown.growth_note


def fail(head):
    raise AssertionError("nothing is to be trained")


def test_no_training_image_is_refused():
    with pytest.raises(ValueError, match="at least one training image"):
        prepared(train=examples(1, 0))


@pytest.mark.parametrize(
    ("kind", "options"),
    [(NearestNeighbor, {}), (NeighborSearch, {"max_neighbors": 9}), (NeighborSearch, {"index": "hnsw"}),
     (NeighborSearch, {"index": "ivf", "temperature": 20})],
    ids=str,
)  # fmt: skip
def test_a_run_reads_back_with_its_references(kind, options, reloaded):
    head, queries = prepared(kind, **options), torch.from_numpy(clustered(3, 9))
    again = reloaded(head)
    assert torch.equal(again.reference_features(), head.reference_features())
    for one, other in zip(again(queries), head(queries), strict=True):
        assert torch.equal(one, other)
