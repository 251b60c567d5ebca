"""How a head's parts are put together when classes are added to it."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mlclip.heads.base import Growth


def joined_rows(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with one row per class: the old classes' rows, then the new ones'."""
    return {name: torch.cat([rows, new[name]]) for name, rows in old.items()}


def joined_references(
    ids: Sequence[str], features: Tensor, targets: Tensor, growth: Growth, *, old_labels: bool
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """References that know the new classes: the old ones, then training images that have a new label.

    R references with features [R, D] and targets [R, N] become R' with features [R', D] and targets [R', N + M]. Those
    that are among the training images get the new labels that these have. With `old_labels`, images that join also keep
    their labels among the old classes; otherwise these are 0.
    """
    train, known = growth.train, growth.known
    labels = torch.from_numpy(train.targets).to(targets.dtype)
    row_of = {name: row for row, name in enumerate(train.ids)}
    rows = torch.tensor([row_of.get(name, -1) for name in ids], dtype=torch.int64)
    found = torch.where(rows[:, None] >= 0, labels[rows, known:], torch.zeros((), dtype=targets.dtype))
    showing = train.targets[:, known:].any(axis=1)
    present = frozenset(ids)
    joining = np.array([row for row, name in enumerate(train.ids) if showing[row] and name not in present], np.int64)
    joined = labels[joining]
    if not old_labels:
        joined[:, :known] = 0
    return (
        (*ids, *(train.ids[row] for row in joining)),
        torch.cat([features, torch.from_numpy(train.features[joining][0])]),
        torch.cat([torch.cat([targets, found], dim=1), joined]),
    )
