"""Nearest neighbours: exact, or approximate with faiss for when exact search over all references takes too long.

An index holds the references' unit vectors and finds those with the largest inner products, which are their cosine
similarities. It is built by one thread, so that equal vectors in equal order give equal bytes, and it is stored as
these bytes. Its search effort (`efSearch` of a graph, `nprobe` of inverted lists) is part of it: `tune_effort` doubles
the effort until the recall against exact search is high enough, and returns that recall.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mlclip.errors import TrainError
from mlclip.heads.values import check_choice

KINDS = ("hnsw", "ivf")
TARGET_RECALL = 0.99
_LINKS = 32
_POINTS_A_LIST = 39  # faiss's own lower bound for k-means

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def require_faiss() -> Any:
    """Import faiss; the TrainError where it is not installed contains the pip command."""
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        raise TrainError(
            "this head searches with faiss, which is not installed: pip install 'mlclip[faiss]'"
        ) from error


def build_index(kind: str, vectors: Floats) -> Any:
    """Build a faiss index for inner products of vectors float32 [R, D] of unit length; row r becomes number r.

    The kind is `hnsw` (Malkov and Yashunin 2016, https://arxiv.org/abs/1603.09320: a graph with 32 links per node and
    80 candidates per insertion; fast to search, slow to build) or `ivf` (k-means puts vectors into about 4·√R lists, of
    which a query searches a few; fast to build).
    """
    check_choice("index", kind, KINDS)
    faiss = require_faiss()
    count, width = vectors.shape
    lists = max(1, min(round(4 * count**0.5), count // _POINTS_A_LIST))
    recipe = f"HNSW{_LINKS},Flat" if kind == "hnsw" else f"IVF{lists},Flat"
    index = faiss.index_factory(width, recipe, faiss.METRIC_INNER_PRODUCT)
    if kind == "hnsw":
        index.hnsw.efConstruction = 80
    else:
        index.cp.min_points_per_centroid = 1  # otherwise faiss warns about few vectors
    with _one_thread(faiss):
        index.train(vectors)
        index.add(vectors)
    return index


def tune_effort(index: Any, vectors: Floats, queries: Floats, k: int, target: float = TARGET_RECALL) -> float:
    """Double an index's effort until it finds enough of the nearest neighbours or reaches its maximum; return recall@k.

    The index is built from vectors float32 [R, D]; queries, float32 [Q, D], are images that are not references.
    Recall@k is the share of the k nearest by exact search that the index also finds. Vectors as similar as the k-th
    nearest (within 1e-6) count as found, since their order is arbitrary.
    """
    exact, _ = require_faiss().knn(queries, vectors, k, metric=require_faiss().METRIC_INNER_PRODUCT)
    graph = hasattr(index, "hnsw")
    effort, most = (max(k, 16), len(vectors)) if graph else (1, index.nlist)
    while True:
        if graph:
            index.hnsw.efSearch = min(effort, most)
        else:
            index.nprobe = min(effort, most)
        found, _ = search_index(index, queries, k)
        recall = float((found >= exact[:, -1:] - 1e-6).mean())
        if recall >= target or effort >= most:
            return recall
        effort *= 2


def search_index(index: Any, queries: Floats, k: int) -> tuple[Floats, Integers]:
    """Find the k neighbours of queries [B, D], unit length, most similar first, ties by lowest number.

    Similarities are float32 [B, k], numbers int64 [B, k]; -inf and 0 where fewer were found.
    """
    similarity, number = index.search(np.ascontiguousarray(queries), k)
    similarity = np.where(number < 0, np.float32(-np.inf), similarity)
    order = np.lexsort((number, -similarity), axis=1)
    rows = np.arange(len(order))[:, None]
    return similarity[rows, order], np.maximum(number[rows, order], 0)


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row, largest first, ties by lowest index.

    ONNX's TopK is defined this way; torch's leaves open which of equal values it takes. Rows where a tie crosses the
    cut are therefore sorted in full.

    Values float32 [B, R] give the largest [B, k] and their indices int64 [B, k].
    """
    found, index = values.topk(k)
    if torch.compiler.is_compiling():  # traced for ONNX
        return found, index
    cut = (values >= found[:, -1:]).sum(dim=1, dtype=torch.int32) > k
    index[cut] = values[cut].sort(dim=1, descending=True, stable=True).indices[:, :k]
    index = index.sort(dim=1).values
    found, order = values.gather(1, index).sort(dim=1, descending=True, stable=True)
    return found, index.gather(1, order)


def effort_of(index: Any) -> int:
    """An index's search effort: `efSearch` or `nprobe`."""
    return int(index.hnsw.efSearch if hasattr(index, "hnsw") else index.nprobe)


def pack(index: Any) -> npt.NDArray[np.uint8]:
    """An index as the bytes of faiss's own file format, uint8 [M]."""
    data: npt.NDArray[np.uint8] = require_faiss().serialize_index(index)
    return data


def unpack(data: npt.NDArray[np.uint8]) -> Any:
    """The index that `pack` serialized."""
    return require_faiss().deserialize_index(data)


def index_vectors(index: Any) -> Floats:
    """The vectors in an index, unchanged: float32 [R, D]."""
    if not hasattr(index, "hnsw"):
        index = require_faiss().clone_index(index)
        index.make_direct_map()
    vectors: Floats = index.reconstruct_n(0, index.ntotal)
    return vectors


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    """With more threads, the order of insertion and therefore the graph would vary."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
