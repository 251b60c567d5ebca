"""CLIP + Label Empower: every set of labels seen in training is one class, and a softmax chooses among the sets.

Aktas and Garcia, "CLIP-based Few-Shot Multi-Label Classification Methods", III.A. Images without a label share the
empty set: the paper has a class for each distinct binary vector, including all zeros. A set that training never
saw cannot win, and in the worst case the number of sets explodes; `facts` and `unseen` count both. The adapter is
CLIP-Adapter's (Gao et al. 2021, https://arxiv.org/abs/2110.04544).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlclip.heads.base import Growth, Head
from mlclip.heads.values import Examples, LabelTexts, Range, check_choice
from mlclip.settings import TrainConfig

DECODES = ("marginals", "winner")
REDUCTION = 4


class Unseen(NamedTuple):
    """What a head of label sets cannot get entirely right: images whose set is not in training, and those sets."""

    images: int
    sets: int


class PowersetHead(Head):
    """An adapter on the embedding, one linear layer to the label sets, a softmax; sets are decoded to labels.

    Args:
        ratio: share of the adapter in its residual sum.
        scale: factor on the embedding; None means sqrt(D), as for the head `sigmoid`. The paper has none (1.0).
        decode: `marginals`, a label's score is the sum of the probabilities of the sets that hold it, or `winner`,
            1 for the labels of the most probable set and 0 for all others.
    """

    name = "powerset"
    source = "000, III.A"
    defaults = TrainConfig(lr=1e-3, epochs=80, patience=15, weight_decay=1e-3)
    search = {
        "ratio": Range(0, 1),
        "training.lr": Range(1e-4, 1e-2, log=True),
        "training.weight_decay": Range(1e-5, 1e-2, log=True),
    }

    outputs = ("scores",)
    members: Tensor

    def __init__(
        self,
        classes: int,
        width: int,
        *,
        sets: int = 1,
        ratio: float = 0.2,
        scale: float | None = None,
        decode: str = "marginals",
    ) -> None:
        super().__init__()
        check_choice("decode", decode, DECODES)
        if not 0 <= ratio <= 1:
            raise ValueError(f"ratio must lie between 0 and 1, not {ratio}")
        self.scale = math.sqrt(width) if scale is None else scale
        self.config = {
            "classes": classes, "width": width, "sets": sets, "ratio": ratio, "scale": self.scale, "decode": decode,
        }  # fmt: skip
        narrow = max(width // REDUCTION, 1)
        self.down, self.up = nn.Linear(width, narrow), nn.Linear(narrow, width)
        self._keep(torch.zeros(sets, classes))

    def prepare(self, train: Examples, validation: Examples, texts: LabelTexts, seed: int) -> None:
        """The label sets of the training images become the classes of the softmax; `facts` counts them."""
        sets = np.unique(train.targets, axis=0)
        self._keep(torch.from_numpy(sets.astype(np.float32)))
        images, unseen = self.unseen(validation.targets)
        self._facts = {
            "label_sets": len(sets),
            "empty_set_is_one_of_them": not bool(sets.any(axis=1).all()),
            "validation_images_of_unseen_sets": images,
            "validation_unseen_sets": unseen,
        }

    def caveats(self, targets: npt.NDArray[np.uint8], split: str) -> list[str]:
        """How many images of a split have label sets that training did not hold."""
        unseen, sets = self.unseen(targets), len({row.tobytes() for row in targets})
        return [
            f"{unseen.sets:,} of the {sets:,} label sets of {split} were not in training, "
            f"on {unseen.images:,} of {len(targets):,} images: this head cannot get those entirely right"
        ]

    def unseen(self, targets: npt.NDArray[np.generic]) -> Unseen:
        """Count the rows of targets [R, N], 0 or 1, whose label set training did not hold, and these sets."""
        known = {tuple(row) for row in self.members.numpy().astype(bool).tolist()}
        rows = [tuple(row) for row in targets.astype(bool).tolist()]
        return Unseen(sum(row not in known for row in rows), len(set(rows) - known))

    def extended(self, growth: Growth) -> Self:
        """Refused, since every score would change."""
        raise ValueError(
            "powerset takes no further classes, since new labels make new sets and one softmax runs over all sets: "
            "train a new head on all labels"
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """Embedding float32 [B, D] to scores float32 [B, N] in [0, 1]."""
        logits = self.set_logits(embedding)
        if self.config["decode"] == "winner":
            return F.embedding(logits.argmax(dim=1), self.members)
        return (logits.softmax(dim=1) @ self.members).clamp(max=1)  # rounding can exceed 1 in the last bit

    def set_logits(self, embedding: Tensor) -> Tensor:
        """Embedding float32 [B, D] to the logits of the label sets, [B, S]."""
        x, ratio = embedding * self.scale, self.config["ratio"]
        adapted = F.relu(self.up(F.relu(self.down(x))))
        logits: Tensor = self.linear(ratio * adapted + (1 - ratio) * x)
        return logits

    def loss(self, features: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Cross entropy of the images' own sets."""
        return F.cross_entropy(self.set_logits(*features), self.index(targets))

    def index(self, targets: Tensor) -> Tensor:
        """The number of each row's set, int64 [B], of labels [B, N], 0 or 1; refuses sets that training did not hold.

        Of all sets m, the row t itself has the largest 2 t·m - |m|, which is |t|.
        """
        best, index = (2 * targets @ self.members.T - self.members.sum(dim=1)).max(dim=1)
        if not torch.equal(best, targets.sum(dim=1)):
            raise ValueError("an image has a set of labels that this head does not know: prepare it with these images")
        return index

    def _keep(self, members: Tensor) -> None:
        self.config["sets"] = len(members)
        self.register_buffer("members", members)
        self.linear = nn.Linear(self.config["width"], len(members))
