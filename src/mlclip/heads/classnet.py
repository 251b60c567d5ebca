"""The class-wise neighbor net: how similar is the query to the references of each class?

Per class, a softmax over the similarities of that class's references only, then their weighted mean, rescaled from
[-1, 1] to [0, 1]: between the mean similarity (temperature 0) and the highest one (temperature towards infinity).
Bynke 2022, "Multi-label image classification with language-image models" (master's thesis, NTNU; document 002), 3.2.3.

The thesis expands the similarities to [B, R, N] and masks the other classes' references. Here the P pairs of class and
reference are listed instead, in chunks of one class each, and a class's chunks are summed afterwards: beside the
similarities [R, B] only [P, B] is held, and P is the number of labels of all images. Measured at B = 32, R = 80,000,
N = 159, D = 512, P = 146,455 (164 MB of weights; one [B, R, N] tensor would be 1,628 MB): 130 MB in torch, 290 MB for a
step of fine-tuning, of which F's gradient is 164 MB, and 240 MB in onnxruntime.
"""

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlclip.heads.base import Growth, Head
from mlclip.heads.prototypes import check_prototypes, make_prototypes
from mlclip.heads.values import Choice, Examples, LabelTexts, Range
from mlclip.settings import TrainConfig

CHUNK = 64
"""Most pairs per chunk."""


class ClassNet(Head):
    """A softmax-weighted mean of similarities for each class; a class without references scores 0.

    Fine-tuning moves the references F by the mean squared error of the scores; the temperature stays, and nothing
    has a bias. Similarities may then leave [-1, 1]; scores are clamped to [0, 1]. Without fine-tuning, scores crowd
    around 0.5 to 0.9. The thesis fine-tunes with SGD at large rates; Adam, the default, needs fewer epochs.

    Args:
        prototypes: averaged references per class; None keeps every training image.
        grouping: how prototypes are grouped: `random` or `kmeans`. Empty groups are left out.
        temperature: factor on the similarities in the softmax, at least 0.
        fine_tune: train F.
    """

    name = "classnet"
    source = "002, 3.2.3"
    defaults = TrainConfig(schedule="cosine", lr=0.03, batch_size=64, epochs=30, patience=30)
    search = {
        "temperature": Range(0.3, 100, log=True),
        "training.epochs": Range(10, 60, integer=True),
        "training.batch_size": Choice((32, 64, 128)),
    }

    outputs = ("scores",)
    pairs: Tensor
    paired: Tensor
    chunks: Tensor
    chunked: Tensor

    def __init__(
        self,
        classes: int,
        width: int,
        *,
        prototypes: int | None = 16,
        grouping: str = "kmeans",
        temperature: float = 1.0,
        fine_tune: bool = True,
        references: int = 0,
        pairs: Sequence[int] = (0, 1),
        chunks: int = 1,
    ) -> None:
        super().__init__()
        check_prototypes(prototypes, grouping)
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be at least 0 and finite, not {temperature}")
        self.config = {
            "classes": classes, "width": width, "prototypes": prototypes, "grouping": grouping,
            "temperature": temperature, "fine_tune": fine_tune,
        }  # fmt: skip
        self._keep(torch.zeros(references, width), np.full(tuple(pairs), -1), np.full((classes, chunks), -1))

    def prepare(self, train: Examples, validation: Examples, texts: LabelTexts, seed: int) -> None:
        """The training images, or their prototypes, become the references of their classes."""
        (embedding,) = train.features[:]
        targets, options = train.targets, self.config
        if options["prototypes"] is not None:
            made = make_prototypes(
                embedding, targets, options["prototypes"], grouping=options["grouping"], labels="onehot", seed=seed
            )
            embedding, targets = made.vectors[made.filled], made.labels[made.filled].astype(np.uint8)
        self._keep(torch.from_numpy(embedding), *_chunked(targets))

    def extended(self, growth: Growth) -> Self:
        """References of the new classes, made and fine-tuned on their own; no class sees another's."""
        new = self.rebuilt(classes=len(growth.new_labels))
        growth.fit(new)
        whole = self.rebuilt(classes=len(growth.texts.labels))
        pairs = _stacked(_table(self.pairs, self.paired), _table(new.pairs, new.paired), len(self.references))
        chunks = _stacked(_table(self.chunks, self.chunked), _table(new.chunks, new.chunked), len(self.pairs))
        whole._keep(torch.cat([self.references, new.references]).detach(), pairs, chunks)
        return whole

    def forward(self, embedding: Tensor) -> Tensor:
        """Embedding float32 [B, D] to scores float32 [B, N]."""
        return self._scores(embedding).clamp(0, 1)

    def loss(self, features: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean squared error of the scores, before they are clamped to [0, 1]."""
        return F.mse_loss(self._scores(*features), targets)

    def _scores(self, embedding: Tensor) -> Tensor:
        """Scores [B, N]: softmax sums by chunk, then by class."""
        similarities = F.embedding(self.pairs, F.linear(self.references, embedding))
        weights, peaks = self._weigh(similarities, self.paired)
        sums, weighted = weights.sum(dim=1), (weights * similarities).sum(dim=1)

        shares, _ = self._weigh(F.embedding(self.chunks, peaks), self.chunked)
        total = (shares * F.embedding(self.chunks, sums)).sum(dim=1)
        means = (shares * F.embedding(self.chunks, weighted)).sum(dim=1) / total.clamp(min=0.5)
        return ((means + 1) / 2 * self.chunked[:, :1]).T

    def _weigh(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """exp(t (v - m)) of values v [G, C, B], 0 where the mask [G, C] is false, and each group's maximum m [G, B].

        Subtracting its own maximum keeps a group's weights from vanishing because another group is nearer. The maxima
        cancel out of the weighted mean, so they need no gradient.
        """
        inside = mask[..., None]
        peak = values.detach().masked_fill(~inside, -math.inf).amax(dim=1)
        below = torch.where(inside, values - peak[:, None], 0.0)
        return torch.where(inside, (self.config["temperature"] * below).exp(), 0.0), peak

    def _keep(self, references: Tensor, pairs: npt.NDArray[np.int64], chunks: npt.NDArray[np.int64]) -> None:
        """Keep references [R, D], pairs [S, C] of their rows, and chunks [N, K] of rows of pairs; -1 is padding."""
        self.config |= {"references": len(references), "pairs": list(pairs.shape), "chunks": chunks.shape[1]}
        self.references = nn.Parameter(references, requires_grad=self.config["fine_tune"])
        for name, table in (("pair", pairs), ("chunk", chunks)):
            self.register_buffer(f"{name}s", torch.from_numpy(table.clip(min=0)))
            self.register_buffer(f"{name}ed", torch.from_numpy(table >= 0))


def _chunked(targets: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which references [R, N] belong to each class: pairs [S, C], up to C per line, and chunks [N, K] of `_keep`."""
    if not targets.any():
        raise ValueError("no image has a label: references need labelled images")
    members = [np.flatnonzero(column) for column in targets.T]
    size = min(CHUNK, max(len(rows) for rows in members))
    lines = [rows[start : start + size] for rows in members for start in range(0, len(rows), size)]
    counts = np.array([-(-len(rows) // size) for rows in members])
    numbers = np.split(np.arange(len(lines)), counts.cumsum()[:-1])
    return _filled_up(lines, size), _filled_up(numbers, int(counts.max()))


def _filled_up(rows: Sequence[npt.NDArray[np.int64]], width: int) -> npt.NDArray[np.int64]:
    """Rows of unequal length as one table [len(rows), width], padded with -1."""
    return np.array([np.pad(row, (0, width - len(row)), constant_values=-1) for row in rows], dtype=np.int64)


def _table(rows: Tensor, inside: Tensor) -> npt.NDArray[np.int64]:
    """A kept table as `_keep` takes it."""
    return torch.where(inside, rows, -1).numpy()


def _stacked(old: npt.NDArray[np.int64], new: npt.NDArray[np.int64], offset: int) -> npt.NDArray[np.int64]:
    """One table below another, whose numbers start at `offset`; the narrower one is padded."""
    moved = np.where(new >= 0, new + offset, -1)
    return _filled_up([*old, *moved], max(old.shape[1], new.shape[1]))
