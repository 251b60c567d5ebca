import copy
import logging
import sys

import faiss
import numpy as np
import pytest
import torch

from mlclip.errors import TrainError
from mlclip.heads.index import build_index, effort_of, index_vectors, pack, search_index, tune_effort, unpack
from mlclip.heads.neighbors import NeighborSearch

D, K = 16, 36


def clustered(seed, count, clusters=400):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(clusters, D))
    rows = (centres[rng.integers(clusters, size=count)] + rng.normal(scale=0.5, size=(count, D))).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def recall_of(found, vectors, queries):
    """Share of the exact nearest that were found, by float64 and sets."""
    hits = 0
    for numbers, query in zip(found, queries, strict=True):
        exact = np.argsort(-(vectors.astype(np.float64) @ query.astype(np.float64)), kind="stable")[:K]
        hits += len(set(exact.tolist()) & set(numbers.tolist()))
    return hits / found.size


@pytest.fixture(scope="module", params=["hnsw", "ivf"])
def large(request):
    vectors = clustered(1, 20_000)
    return request.param, vectors, build_index(request.param, vectors)


def test_an_index_has_the_recall_it_states(large):
    _, vectors, index = large
    queries = clustered(2, 100)
    stated = tune_effort(index, vectors, queries, K)
    found = search_index(index, queries, K)[1]
    assert stated >= 0.99
    assert recall_of(found, vectors, queries) == pytest.approx(stated, abs=1e-3)
    fresh = clustered(3, 100)
    assert recall_of(search_index(index, fresh, K)[1], vectors, fresh) > stated - 0.02


def test_effort_grows_until_the_recall_is_enough(large):
    _, vectors, index = large
    queries = clustered(2, 64)
    low = tune_effort(index, vectors, queries, K, target=0.2)
    little = effort_of(index)
    high = tune_effort(index, vectors, queries, K, target=0.999)
    assert 0.2 <= low < high
    assert effort_of(index) > little


def test_an_index_keeps_vectors_and_effort_in_its_bytes(large):
    kind, vectors, index = large
    tune_effort(index, vectors, clustered(2, 64), K)
    again = unpack(pack(index))
    assert np.array_equal(index_vectors(again), vectors)
    assert effort_of(again) == effort_of(index)
    assert hasattr(again, "hnsw") == (kind == "hnsw")
    for one, other in zip(search_index(again, vectors[:9], K), search_index(index, vectors[:9], K), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_one_thread_makes_equal_bytes_of_equal_vectors(kind, monkeypatch):
    vectors, before, asked = clustered(1, 2000), faiss.omp_get_max_threads(), []
    setting = faiss.omp_set_num_threads
    monkeypatch.setattr(faiss, "omp_set_num_threads", lambda count: (asked.append(count), setting(count)))
    first, second = (pack(build_index(kind, vectors)) for _ in range(2))
    assert np.array_equal(first, second)
    assert asked == [1, before] * 2


def test_neighbors_come_by_similarity_then_number():
    vectors = np.repeat(clustered(1, 30), 4, axis=0)
    similarity, number = search_index(build_index("hnsw", vectors), vectors[[40]], 6)
    assert number[0, :4].tolist() == [40, 41, 42, 43]
    assert (np.diff(similarity) <= 0).all()


def test_what_was_not_found_has_no_similarity():
    vectors = clustered(1, 800)
    index = build_index("ivf", vectors)
    index.nprobe = 1
    similarity, number = search_index(index, vectors[:3], 800)
    found = np.isfinite(similarity)
    assert found.any(axis=1).all() and not found.all()
    assert (number[~found] == 0).all()


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
@pytest.mark.parametrize("count", [1, 3, 50])
def test_few_vectors_are_enough(kind, count, capfd):
    vectors = clustered(1, count)
    index = build_index(kind, vectors)
    assert tune_effort(index, vectors, clustered(2, 10), count) == 1.0
    assert "WARNING" not in "".join(capfd.readouterr())


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="index must be one of hnsw, ivf, not 'tree'"):
        build_index("tree", clustered(1, 10))


def test_a_missing_faiss_gives_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(TrainError, match=r"pip install 'mlclip\[faiss\]'"):
        build_index("hnsw", clustered(1, 10))


def keep(head, seed=1, count=3000):
    ids = tuple(map(str, range(count)))
    targets = torch.from_numpy((np.random.default_rng(seed).random((count, 5)) < 0.4).astype(np.uint8))
    return head.with_references(ids, torch.from_numpy(clustered(seed, count)), targets)


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_a_head_with_an_index_answers_as_exact_search_does(kind, caplog):
    caplog.set_level(logging.INFO, logger="mlclip")
    empty = NeighborSearch(5, D, index=kind, max_neighbors=K, temperature=20.0)
    empty.probes = torch.from_numpy(clustered(4, 200))
    head, exact = keep(empty), keep(NeighborSearch(5, D, max_neighbors=K, temperature=20.0))
    queries = torch.from_numpy(clustered(2, 100))
    found, true = head(queries), exact(queries)
    assert head.config["recall"] >= 0.99
    assert f"recall@36 against exact search {head.config['recall']:.4f} on 200 validation images" in caplog.text
    assert head.facts() == {"index": kind, "effort": effort_of(head._index()), "recall": head.config["recall"]}
    assert exact.facts() == {}
    same = (found[1] == true[1]).all(dim=1)
    assert same.float().mean() > 0.6
    np.testing.assert_allclose(found[0][same], true[0][same], atol=1e-5)
    assert (found[0] - true[0]).abs().mean() < 0.002
    assert torch.equal(copy.deepcopy(head)(queries)[0], found[0])
    other = keep(empty, seed=9)
    head.load_state_dict(other.state_dict())
    assert torch.equal(head(queries)[0], other(queries)[0])
    assert not torch.equal(head(queries)[0], found[0])
