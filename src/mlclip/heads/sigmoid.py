"""CLIP + Sigmoid: one linear layer on the image embedding, a sigmoid per class."""

import math
from typing import Self

from torch import Tensor, nn

from mlclip.heads.base import Growth, Head
from mlclip.heads.growth import joined_rows
from mlclip.heads.values import Range
from mlclip.settings import TrainConfig


class SigmoidHead(Head):
    """One linear layer (Aktas and Garcia, "CLIP-based Few-Shot Multi-Label Classification Methods", III.B).

    Its default training is that of logistic regression: L-BFGS with an L2 penalty that validation chooses.

    Args:
        scale: factor on the embedding; None means sqrt(D), which gives the components of unit vectors a standard
            deviation of about one. The paper has no such factor (1.0), and its layer then barely learns.
    """

    name = "sigmoid"
    source = "000, III.B"
    defaults = TrainConfig(optimizer="lbfgs", lr=1.0, epochs=12, patience=3, weight_decay=10.0)
    search = {"training.weight_decay": Range(1e-1, 1e2, log=True)}

    def __init__(self, classes: int, width: int, scale: float | None = None) -> None:
        super().__init__()
        self.scale = math.sqrt(width) if scale is None else scale
        self.config = {"classes": classes, "width": width, "scale": self.scale}
        self.linear = nn.Linear(width, classes)

    def forward(self, embedding: Tensor) -> Tensor:
        """Embedding float32 [B, D] to logits float32 [B, N]."""
        logits: Tensor = self.linear(embedding * self.scale)
        return logits

    def extended(self, growth: Growth) -> Self:
        """New rows of the layer, trained on their own."""
        new = self.rebuilt(classes=len(growth.new_labels))
        growth.fit(new)
        whole = self.rebuilt(classes=len(growth.texts.labels))
        whole.load_state_dict(joined_rows(self.state_dict(), new.state_dict()))
        return whole
