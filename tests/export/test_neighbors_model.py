"""The Python model that searches with faiss: runs on Python 3.10 and answers as the head does."""

import json

import faiss
import numpy as np
import pytest
import torch
from mlclip_export.served import neighbors as neighbors_model
from mlclip_export.served.neighbors import TritonPythonModel, label_scores, nearest, neighbor_weights, open_search

from mlclip.heads.neighbors import NeighborSearch

from .conftest import Backend

R, D, N, K = 900, 16, 7, 12


def queries(seed, count):
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


@pytest.fixture(scope="module", params=["hnsw", "ivf"])
def head(request):
    head = NeighborSearch(N, D, index=request.param, max_neighbors=K, temperature=8.0, max_difference=1.0,
                          stop_weight=0.9)  # fmt: skip
    head.probes = torch.nn.functional.normalize(torch.from_numpy(queries(2, 50)))
    targets = torch.from_numpy((np.random.default_rng(3).random((R, N)) < 0.3).astype(np.uint8))
    features = torch.nn.functional.normalize(torch.from_numpy(queries(1, R)))
    return head.with_references(tuple(map(str, range(R))), features, targets)


@pytest.fixture
def threads(monkeypatch):
    """The numbers of threads that faiss was told."""
    told = []
    monkeypatch.setattr(faiss, "omp_set_num_threads", told.append)
    return told


@pytest.fixture
def model(head, threads, tmp_path, monkeypatch):
    monkeypatch.setattr(neighbors_model, "pb_utils", Backend)
    monkeypatch.setattr(neighbors_model, "__file__", str(tmp_path / "model.py"))
    (tmp_path / "index.faiss").write_bytes(head.index_data.numpy().tobytes())
    np.save(tmp_path / "labels.npy", head.labels.numpy())
    parameters = {name: {"string_value": str(head.config[name])}
                  for name in ("temperature", "max_difference", "max_neighbors", "stop_weight")}  # fmt: skip
    served = TritonPythonModel()
    served.initialize({"model_config": json.dumps({"parameters": parameters})})
    return served


def test_answers_are_those_of_the_head(model, head):
    requests = [{"embedding": Backend.Tensor("embedding", queries(seed, size))} for seed, size in ((5, 2), (6, 3))]
    responses = model.execute(requests)
    weights = []
    for request, response in zip(requests, responses, strict=True):
        assert [tensor.name for tensor in response.tensors] == list(head.outputs)
        for tensor, expected in zip(response.tensors, head(torch.from_numpy(request["embedding"].value)), strict=True):
            assert tensor.value.dtype == expected.numpy().dtype and tensor.value.shape == expected.shape
            np.testing.assert_allclose(tensor.value, expected, atol=1e-6)
        weights.append(response.tensors[2].value)
    assert (np.concatenate(weights) == 0).any() and (np.concatenate(weights) > 0).sum() > 4


def test_only_the_model_in_triton_sets_the_threads_of_its_process(model, threads, tmp_path):
    assert threads == [1]
    open_search(tmp_path, {"temperature": "8", "max_difference": "1", "max_neighbors": "12", "stop_weight": "1"})
    assert threads == [1], "the export opens a search, too, and goes on"


def test_only_neighbours_within_the_difference_count_ties_by_lowest_number():
    class Index:
        def search(self, embedding, k):
            assert np.linalg.norm(embedding) == pytest.approx(1)
            return np.array([[0.5, 1.0, 0.75, 1.0, -3e38]], np.float32), np.array([[4, 9, 2, 3, -1]])

    similarity, number = nearest(Index(), np.full((1, 4), 3, np.float32), 5)
    assert number.tolist() == [[3, 9, 2, 4, 0]]
    weight = neighbor_weights(similarity, 8.0, 2.0, 1.0)
    shares = np.exp([0, 0, -2.0]) / np.exp([0, 0, -2.0]).sum()
    np.testing.assert_allclose(weight, [[*shares, 0, 0]], atol=1e-7)
    labels = np.zeros((10, 2), np.uint8)
    labels[[3, 2, 0], [0, 0, 1]] = 1
    np.testing.assert_allclose(label_scores(labels, number, weight), [[shares[0] + shares[2], 0]], atol=1e-7)
