"""Neighbour search: labels of the most similar reference images, weighted by a softmax of their similarities.

Bynke 2022, "Multi-label image classification with language-image models" (master's thesis, NTNU; document 002),
3.2.2; defaults from its Table 4.3, bounds of the search from 3.2.2. Nothing is trained: the references are the
training images, and they can be added and removed at any time.

A batch of B images against R references with N labels takes B·R float32 similarities and B·k·N labels of the k
neighbours; no tensor of size B·R·N exists. At B = 32, R = 80,000, N = 159, k = 36 and D = 512, torch allocates 23 MB
at most (measured) beside the 164 MB of references and their 13 MB of labels.
"""

import io
import logging
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mlclip.heads.base import Growth, Head, batches, tensors
from mlclip.heads.growth import joined_references
from mlclip.heads.index import (
    KINDS,
    build_index,
    effort_of,
    index_vectors,
    largest,
    pack,
    search_index,
    tune_effort,
    unpack,
)
from mlclip.heads.temperature import TEMPERATURES, best_temperature
from mlclip.heads.values import Examples, LabelTexts, PythonModel, Range, check_choice

PROBES = 256
"""Validation images kept with an index, to measure its recall whenever it is rebuilt."""
_log = logging.getLogger(__name__)

Answer = tuple[Tensor, Tensor, Tensor]


class NeighborSearch(Head):
    """Scores are the weights of the neighbours that carry a label, summed.

    Neighbours are the `max_neighbors` most similar references, ties by lowest index, without those whose similarity
    times `temperature` lies more than `max_difference` below the best one's. Their weights are the softmax of these
    scaled similarities, which count, heaviest first, until their sum reaches `stop_weight`.

    Args:
        temperature: factor on cosine similarities before the softmax; 0 gives all neighbours the same weight. None
            takes the one of `TEMPERATURES` with the best validation mAP; the thesis found 68.566 for CLIP.
        max_difference: in scaled units.
        max_neighbors: k.
        stop_weight: 1 takes every neighbour; the thesis stops at 0.99.
        index: None for exact search; `hnsw` or `ivf` for faiss, which finds nearly all neighbours and is faster
            with many references. Such a head cannot be a graph: a Python model serves it.
        recall: recall@k of the index against exact search, measured when it was built.
    """

    name = "neighbors"
    source = "002, 3.2.2"
    growth_note = "images that joined the references are neighbours now"
    search = {
        "temperature": Range(1.0, 200.0, log=True),
        "max_difference": Range(0.5, 8.0),
        "max_neighbors": Range(1, 200, log=True, integer=True),
    }
    outputs = ("scores", "reference_index", "reference_weight")
    labels: Tensor
    features: Tensor
    index_data: Tensor
    probes: Tensor

    def __init__(
        self,
        classes: int,
        width: int,
        *,
        temperature: float | None = None,
        max_difference: float = 5.2568,
        max_neighbors: int = 36,
        stop_weight: float = 1.0,
        index: str | None = None,
        references: int = 0,
        index_bytes: int = 0,
        probes: int = 0,
        recall: float | None = None,
    ) -> None:
        super().__init__()
        self.temperature = temperature if temperature is None else float(temperature)
        self.max_difference = float(max_difference)
        self.max_neighbors, self.stop_weight, self.index = max_neighbors, float(stop_weight), index
        if not isinstance(max_neighbors, int) or max_neighbors < 1:
            raise ValueError(f"max_neighbors must be a whole number of at least 1, not {max_neighbors!r}")
        if min(temperature or 0, self.max_difference) < 0:
            raise ValueError(f"temperature and max_difference must not be below 0: {temperature}, {max_difference}")
        if not 0 < self.stop_weight <= 1:
            raise ValueError(f"stop_weight must be above 0 and at most 1, not {stop_weight}")
        if index is not None:
            check_choice("index", index, KINDS)
        self.config = {
            "classes": classes, "width": width, "temperature": self.temperature,
            "max_difference": self.max_difference, "max_neighbors": max_neighbors, "stop_weight": self.stop_weight,
            "index": index, "references": references, "index_bytes": index_bytes, "probes": probes, "recall": recall,
        }  # fmt: skip
        self.register_buffer("labels", torch.zeros(references, classes, dtype=torch.uint8))
        if index is None:
            self.register_buffer("features", torch.zeros(references, width))
        else:
            self.register_buffer("index_data", torch.zeros(index_bytes, dtype=torch.uint8))
            self.register_buffer("probes", torch.zeros(probes, width))
        self._opened: Any = None
        self.register_load_state_dict_post_hook(_forget_index)  # type: ignore[no-untyped-call]

    @property
    def neighbors(self) -> int:
        """How many neighbours an answer names: `max_neighbors`, or R where there are fewer."""
        return min(self.max_neighbors, len(self.labels))

    def prepare(self, train: Examples, validation: Examples, texts: LabelTexts, seed: int) -> None:
        """Keep the training images as references."""
        if not len(train):
            raise ValueError("neighbour search needs at least one training image")
        vectors = torch.cat([tensors(train.features, part)[0] for part in batches(train.features)])
        if self.index is not None:
            self.probes = F.normalize(torch.from_numpy(validation.features[slice(PROBES)][0]), dim=1)
            self.config["probes"] = len(self.probes)
        self._keep(train.ids, F.normalize(vectors, dim=1), torch.from_numpy(train.targets))
        if self.temperature is None:
            self.temperature = self.config["temperature"] = best_temperature(self._at_all_temperatures, validation)

    def with_references(self, ids: Sequence[str], features: Tensor, targets: Tensor) -> Self:
        """The same head with other references; an index is built again."""
        config = self.config | {"classes": targets.shape[1], "references": 0, "index_bytes": 0}
        head = type(self)(**{name: config[name] for name in self.config})
        if self.index is not None:
            head.probes = self.probes
        head._keep(ids, features, targets)
        return head.eval()

    def extended(self, growth: Growth) -> Self:
        """References get the new labels they have, and training images with a new label join them."""
        features, targets = self.reference_features(), self.reference_targets()
        return self.with_references(*joined_references(self.reference_ids, features, targets, growth, old_labels=True))

    def facts(self) -> dict[str, Any]:
        """Of an index: its kind, how hard it searches, and its recall@k against exact search."""
        if self.index is None:
            return {}
        return {"index": self.index, "effort": effort_of(self._index()), "recall": self.config["recall"]}

    def reference_features(self) -> Tensor:
        """The references' embeddings, L2-normalised: float32 [R, D]."""
        return self.features if self.index is None else torch.from_numpy(index_vectors(self._index()))

    def reference_targets(self) -> Tensor:
        """The references' labels: uint8 [R, N], 0 or 1."""
        return self.labels

    def python_model(self) -> PythonModel | None:
        """With an index, a Python model that searches with faiss."""
        if self.index is None:
            return None
        labels = io.BytesIO()
        np.save(labels, self.labels.numpy())
        files = {"index.faiss": self.index_data.numpy().tobytes(), "labels.npy": labels.getvalue()}
        settings = ("temperature", "max_difference", "max_neighbors", "stop_weight")
        return PythonModel("neighbors", files, {name: str(self.config[name]) for name in settings})

    def forward(self, embedding: Tensor) -> Answer:
        """Embedding float32 [B, D] to scores float32 [B, N] in [0, 1] and k neighbours, heaviest first.

        reference_index is int32 [B, k], reference_weight float32 [B, k], 0 beyond `max_difference`; k is `neighbors`.
        """
        return self._answer(*self._search(F.normalize(embedding, dim=1), self.neighbors))

    def scores_without(self, own: Tensor, *features: Tensor) -> Tensor:
        """As in `Head`: one neighbour more is searched, and each image's own reference is dropped."""
        queries = F.normalize(features[0], dim=1)
        similarity, index = self._search(queries, min(self.neighbors + 1, len(self.labels)))
        similarity, order = largest(similarity.masked_fill(index == own[:, None], -torch.inf), self.neighbors)
        return self._answer(similarity, index.gather(1, order))[0]

    def _answer(self, similarity: Tensor, index: Tensor) -> Answer:
        assert self.temperature is not None  # `prepare` chose it
        scores, weight = self._vote(similarity, index, self.temperature)
        return scores, index.int(), weight

    def _vote(self, similarity: Tensor, index: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        weight = neighbor_weights(similarity, temperature, self.max_difference, self.stop_weight)
        scores = torch.bmm(weight.unsqueeze(1), self.labels[index].float()).squeeze(1)
        return scores.clamp(max=1.0), weight

    def _at_all_temperatures(self, embedding: Tensor) -> Tensor:
        similarity, index = self._search(F.normalize(embedding, dim=1), self.neighbors)
        return torch.stack([self._vote(similarity, index, value)[0] for value in TEMPERATURES], dim=1)

    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        if self.index is None:
            return largest(queries @ self.features.T, k)
        similarity, index = search_index(self._index(), queries.numpy(), k)
        return torch.from_numpy(similarity), torch.from_numpy(index)

    def _index(self) -> Any:
        if self._opened is None:
            self._opened = unpack(self.index_data.numpy())
        return self._opened

    def _keep(self, ids: Sequence[str], vectors: Tensor, targets: Tensor) -> None:
        self.reference_ids, self.labels = tuple(ids), targets.to(torch.uint8)
        self.config |= {"references": len(ids)}
        if self.index is None:
            self.features = vectors
            return
        opened = build_index(self.index, vectors.numpy())
        recall = tune_effort(opened, vectors.numpy(), self.probes.numpy(), self.neighbors)
        self._opened, self.index_data = opened, torch.from_numpy(np.asarray(pack(opened)))
        self.config |= {"index_bytes": len(self.index_data), "recall": recall}
        _log.info(
            "index %s: recall@%d against exact search %.4f on %d validation images (effort %d), %.1f MB",
            self.index, self.neighbors, recall, len(self.probes), effort_of(opened), len(self.index_data) / 1e6,
        )  # fmt: skip


def neighbor_weights(similarity: Tensor, temperature: float, max_difference: float, stop_weight: float = 1.0) -> Tensor:
    """Softmax of scaled similarities over the neighbours within `max_difference` of the best.

    Similarities [B, k], largest first and -inf without a neighbour, are scaled by `temperature`. A neighbour at exactly
    `max_difference` still counts. The weights [B, k] sum to 1 per row, or to 0 where there is no neighbour at all. With
    `stop_weight` below 1, those after the one that reaches this sum are 0, as if they had not been added.
    """
    behind = (similarity[:, :1] - similarity) * temperature
    weight = torch.where(behind <= max_difference, torch.exp(-behind), 0.0)
    weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1.0)
    return weight if stop_weight == 1 else torch.where(weight.cumsum(dim=1) - weight < stop_weight, weight, 0.0)


def _forget_index(head: NeighborSearch, keys: Any) -> None:
    head._opened = None
