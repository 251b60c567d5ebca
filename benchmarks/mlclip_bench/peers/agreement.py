"""Whether two programs give the same vectors: three values, since one can be misleading.

Vectors of a network with random weights all lie close together, so a plain cosine is near 1 for any two images.
Cosines after subtraction of the base's mean are not, and show a wrong image or a wrong activation at once.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
FLOOR = 0.95
"""Lowest centred cosine that still counts as the same vectors: libraries resize images slightly differently."""


def compare(vectors: Floats, base: Floats) -> dict[str, float | bool]:
    """Compare vectors of the same images, in the same order, float32 [n, D] of any length; raises ValueError.

    Returns:
        `cosine`: the lowest over images. `centred_cosine`: the lowest after the mean of the base's unit vectors is
            subtracted from both. `own`: the share of images whose nearest base vector is their own (or equal to it, if
            two files show one image). `agree`: `centred_cosine` is at least FLOOR.
    """
    if vectors.shape != base.shape:
        raise ValueError(f"vectors have shape {vectors.shape}, the base's {base.shape}")
    ours, theirs = _unit(vectors.astype(np.float64)), _unit(base.astype(np.float64))
    mean = theirs.mean(axis=0)
    ours_left, theirs_left = _unit(ours - mean), _unit(theirs - mean)
    near = ours_left @ theirs_left.T
    own = np.diagonal(near)
    return {
        "cosine": float((ours * theirs).sum(axis=1).min()),
        "centred_cosine": float(own.min()),
        "own": float((own >= near.max(axis=1) - 1e-9).mean()),
        "agree": bool(own.min() >= FLOOR),
    }


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    unit: npt.NDArray[np.float64] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
