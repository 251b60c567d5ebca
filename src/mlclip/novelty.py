"""Novelty: how far an image lies from all that a head was trained on, compared with its validation images.

The cosine similarity to the nearest of k centres of the training embeddings (k-means) becomes the share of validation
images that are more similar. So novelty is spread evenly over [0, 1] for images like validation's, and near 1 for
others.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
CENTRES, STEPS = 64, 100


class Novelty(NamedTuple):
    """The fitted measure: `centres` float32 [k, D], of length 1, and a line for each percentile of validation.

    Similarity · `scale` + `shift`, float32 [100] each, falls from 1 to 0 between two percentiles.
    """

    centres: Floats
    scale: Floats
    shift: Floats

    def __call__(self, embedding: Floats) -> Floats:
        """Novelty float32 [R, 1], in [0, 1], of embeddings [R, D] of length 1."""
        similarity = (embedding @ self.centres.T).max(axis=1, keepdims=True)
        share: Floats = (similarity * self.scale + self.shift).clip(0, 1).mean(axis=1, keepdims=True)
        return share


def fit_novelty(train: Floats, validation: Floats, seed: int = 0) -> Novelty:
    """Fit the measure to the embeddings, of length 1, of training and validation images, [R, D] each."""
    from sklearn.cluster import MiniBatchKMeans  # type: ignore[import-untyped]  # slow to load

    groups = MiniBatchKMeans(min(CENTRES, len(train)), n_init=3, random_state=seed).fit(train)
    centres = groups.cluster_centers_.astype(np.float32)
    centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), np.float32(1e-12))
    ends = np.quantile((validation @ centres.T).max(axis=1), np.linspace(0, 1, STEPS + 1))
    width = np.maximum(np.diff(ends), 1e-6)
    return Novelty(centres, (-1 / width).astype(np.float32), (ends[1:] / width).astype(np.float32))
