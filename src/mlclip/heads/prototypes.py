"""Prototypes: each class's references averaged in groups, so that their number does not grow with the data.

Zhang et al. 2021, "Tip-Adapter", https://arxiv.org/abs/2111.03930, average random groups of a class's images. Bynke
2022, "Multi-label image classification with language-image models" (master's thesis, NTNU; document 002), 3.2.3,
extends that to several labels per image: an image counts for each of them, the labels of a group can be averaged as
well, and similar images can be grouped by clustering instead.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlclip.heads.values import check_choice

GROUPINGS = ("random", "kmeans")
LABELS = ("averaged", "onehot")


@dataclass(frozen=True)
class Prototypes:
    """M prototypes for each of N classes, class by class: row n * M + m is the m-th of class n.

    Vectors, float32 [N * M, D], are means of the grouped embeddings, not normalised again; labels, float32
    [N * M, N], lie in [0, 1]. Both are zeros where a group is empty; there `filled`, bool [N * M], is false.
    """

    vectors: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    filled: npt.NDArray[np.bool_]


def make_prototypes(
    embedding: npt.NDArray[np.float32],
    targets: npt.NDArray[np.uint8],
    per_class: int,
    *,
    grouping: str = "kmeans",
    labels: str = "averaged",
    seed: int = 0,
) -> Prototypes:
    """Group the images of each class and average each group.

    Args:
        embedding: R image embeddings [R, D].
        targets: their labels, 0 or 1, [R, N].
        per_class: groups per class. M is this or, if smaller, the number of images of the largest class. A class with
            fewer than M images has each of them as a prototype; its other groups are empty.
        grouping: `random` groups of equal size, or `kmeans` (mini-batch k-means, Sculley 2010).
        labels: `averaged` labels of a group's images, or `onehot`: the class that the group was made for.
        seed: of the grouping.
    """
    check_prototypes(per_class, grouping, labels)
    counts = targets.sum(axis=0, dtype=np.int64)
    if not counts.any():
        raise ValueError("no image has a label: prototypes need labelled images")
    size, classes = min(per_class, int(counts.max())), targets.shape[1]
    groups = [_groups(embedding[targets[:, n] > 0], size, grouping, seed + n) for n in range(classes)]
    members = np.concatenate([np.flatnonzero(targets[:, n]) for n in range(classes)])
    rows = np.concatenate([n * size + group for n, group in enumerate(groups)])
    sizes = np.bincount(rows, minlength=classes * size)
    averaged = _means(targets, members, rows, sizes)
    onehot = np.repeat(np.eye(classes, dtype=np.float32), size, axis=0) * (sizes > 0)[:, None]
    return Prototypes(
        vectors=_means(embedding, members, rows, sizes),
        labels=averaged if labels == "averaged" else onehot,
        filled=sizes > 0,
    )


def check_prototypes(per_class: int | None, grouping: str, labels: str = "averaged") -> None:
    """Raise ValueError for options that `make_prototypes` does not know."""
    check_choice("grouping", grouping, GROUPINGS)
    check_choice("labels", labels, LABELS)
    if per_class is not None and per_class < 1:
        raise ValueError(f"prototypes must be at least 1 per class, not {per_class}; null takes every reference")


def _groups(embedding: npt.NDArray[np.float32], size: int, grouping: str, seed: int) -> npt.NDArray[np.int64]:
    """Which of `size` groups each of a class's images falls into."""
    count = len(embedding)
    if count <= size:
        return np.arange(count)
    if grouping == "random":
        return np.random.default_rng(seed).permutation(count) % size
    from sklearn.cluster import MiniBatchKMeans  # type: ignore[import-untyped]  # slow to load

    groups = MiniBatchKMeans(size, n_init=3, random_state=seed).fit_predict(embedding)
    return np.asarray(groups, dtype=np.int64)


def _means(
    values: npt.NDArray[np.generic],
    members: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """Mean of `values[members]` by group; zeros for a group without members."""
    sums = np.zeros((len(sizes), values.shape[1]), dtype=np.float64)
    np.add.at(sums, rows, values[members])
    means: npt.NDArray[np.float32] = (sums / np.maximum(sizes, 1)[:, None]).astype(np.float32)
    return means
