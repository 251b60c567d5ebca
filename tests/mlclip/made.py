"""Rows and examples in memory, and heads' scores as arrays."""

import numpy as np
import torch

from mlclip.encoders.features import Features, Rows
from mlclip.heads import Examples


def unit_rows(count, seed, width=8):
    """Draw float32 rows [count, width] of length 1."""
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def examples_of(embedding, targets, prefix=""):
    """Examples whose only features are given embeddings; images are named <prefix><row>.png."""
    numbers = np.arange(len(embedding))
    return Examples(Features((Rows(embedding, numbers),)), targets, tuple(f"{prefix}{n}.png" for n in numbers))


def scores_of(head, queries):
    output = head(torch.from_numpy(queries))
    return (output if isinstance(output, torch.Tensor) else output[0]).detach().numpy()
