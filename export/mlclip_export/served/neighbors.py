"""Triton Python model: neighbour search with a faiss index, which no graph can hold.

The export copies this file to `head_<name>/<version>/model.py` with `index.faiss` and `labels.npy` (uint8 [R, N])
beside it, and writes `temperature`, `max_difference`, `max_neighbors` and `stop_weight` into the model's config;
`faiss_threads` may be set there (1). It runs on Python 3.10, needs numpy and faiss-cpu, and computes what
`mlclip.heads.neighbors` does.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

try:
    import triton_python_backend_utils as pb_utils
except ModuleNotFoundError:  # outside Triton, only what does not need it is usable
    pb_utils = None


class TritonPythonModel:
    """One instance of `head_<name>`, with the interface of Triton's Python backend."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the index, the labels and the settings from the config, which `args` from Triton has as JSON."""
        import faiss

        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        faiss.omp_set_num_threads(int(parameters.get("faiss_threads", "1")))
        self.search = open_search(Path(__file__).parent, parameters)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests with one search: `embedding` FP32 [b, D] to `scores` FP32 [b, N] and the references.

        These are `reference_index` INT32 and `reference_weight` FP32, both [b, k].
        """
        batches = [pb_utils.get_input_tensor_by_name(request, "embedding").as_numpy() for request in requests]
        answer = self.search.answer(np.concatenate(batches))
        ends = np.cumsum([len(batch) for batch in batches])[:-1]
        parts = {name: np.split(values, ends) for name, values in answer.items()}
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(name, parts[name][number]) for name in parts])
            for number in range(len(requests))
        ]


class Search:
    """An index, its labels and the settings of the search."""

    def __init__(self, index: Any, labels: Any, parameters: Mapping[str, str]) -> None:
        """Keep what `open_search` reads."""
        self.index, self.labels = index, labels
        self.temperature = float(parameters["temperature"])
        self.max_difference = float(parameters["max_difference"])
        self.stop_weight = float(parameters["stop_weight"])
        self.neighbors = min(int(parameters["max_neighbors"]), len(labels))

    def answer(self, embedding: Any) -> dict[str, Any]:
        """Search for a batch: float32 [B, D] to the outputs by name."""
        similarity, number = nearest(self.index, embedding, self.neighbors)
        weight = neighbor_weights(similarity, self.temperature, self.max_difference, self.stop_weight)
        return {
            "scores": label_scores(self.labels, number, weight),
            "reference_index": number.astype(np.int32),
            "reference_weight": weight,
        }


def open_search(folder: Path, parameters: Mapping[str, str]) -> Search:
    """Read `index.faiss` and `labels.npy` of a folder; `parameters` are the config's."""
    import faiss

    index = faiss.read_index(str(folder / "index.faiss"))
    return Search(index, np.load(folder / "labels.npy", mmap_mode="r"), parameters)


def nearest(index: Any, embedding: Any, k: int) -> tuple[Any, Any]:
    """Find the k most similar references in a faiss index of unit vectors, most similar first, ties by lowest number.

    The embedding, float32 [B, D], is of any length except 0. Gives cosine similarities float32 [B, k] and numbers int64
    [B, k]; -inf and 0 in place of missing neighbours.
    """
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    similarity, number = index.search(embedding / np.maximum(length, np.float32(1e-12)), k)
    similarity = np.where(number < 0, np.float32(-np.inf), similarity)
    order = np.lexsort((number, -similarity), axis=1)
    return np.take_along_axis(similarity, order, 1), np.maximum(np.take_along_axis(number, order, 1), 0)


def neighbor_weights(similarity: Any, temperature: float, max_difference: float, stop_weight: float) -> Any:
    """Softmax of similarities times temperature, over neighbours within `max_difference` of the best: float32 [B, k].

    Similarities are [B, k], largest first; -inf for a missing neighbour. The difference is in scaled units, inclusive.
    Neighbours after the one with which the weights' sum reaches `stop_weight` do not count; 1: all count, and rows sum
    to 1.
    """
    behind = (similarity[:, :1] - similarity) * np.float32(temperature)
    weight = np.where(behind <= np.float32(max_difference), np.exp(-behind), np.float32(0))
    weight = weight / np.maximum(weight.sum(axis=1, keepdims=True), np.float32(1))
    before = np.cumsum(weight, axis=1) - weight
    return np.where(before < np.float32(stop_weight), weight, np.float32(0)) if stop_weight < 1 else weight


def label_scores(labels: Any, number: Any, weight: Any) -> Any:
    """Sum the weights [B, k] of the references that carry a label: float32 [B, N], in [0, 1].

    Labels are uint8 [R, N], possibly memory-mapped: only the rows of the neighbours' numbers, int64 [B, k], are read.
    """
    scores = np.matmul(weight[:, None, :], labels[number].astype(np.float32))[:, 0]
    return np.minimum(scores, np.float32(1))
