"""What a head is given when classes are added to it, and how its parts are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mlclip.heads.base import Head
from mlclip.heads.values import Examples, LabelTexts


@dataclass(frozen=True)
class Growth:
    """What a head of N classes is given to take M further ones.

    Attributes:
        train: images with targets [R, N + M], the known classes first.
        validation: the same of the images that decide when to stop.
        texts: all N + M labels as words.
        known: N.
        training_asked: training was asked for, so that a head that could do without it trains what it can.
        fit: takes a head of the M new classes alone, as built, through `prepare`, gradient steps and `finish`.
    """

    train: Examples
    validation: Examples
    texts: LabelTexts
    known: int
    training_asked: bool
    fit: Callable[[Head], None]

    @property
    def new_texts(self) -> LabelTexts:
        """The M new classes as words."""
        return replace(self.texts, labels=self.new_labels)

    @property
    def new_labels(self) -> tuple[str, ...]:
        """Names of the M new classes."""
        return self.texts.labels[self.known :]


def joined_rows(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that have a row a class: the old classes' rows, then the new ones'."""
    return {name: torch.cat([rows, new[name]]) for name, rows in old.items()}


def joined_references(
    ids: Sequence[str], features: Tensor, targets: Tensor, growth: Growth, *, old_labels: bool
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """References that know the new classes: the old ones, then training images that have a new label.

    Args:
        ids: names of R references. Those that are among the training images get the new labels that these have.
        features: [R, D].
        targets: 0 or 1, [R, N].
        growth: what there is to join.
        old_labels: images that join bring their old labels too; without, they say nothing of the old classes.

    Returns:
        Names, features [R', D] and targets [R', N + M].
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
