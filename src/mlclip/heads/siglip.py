"""SigLIP: images against the texts of the labels, a sigmoid per pair; both towers are trained.

The logits are those of Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training",
https://arxiv.org/abs/2303.15343: exp(t') x·y + b, with the image's embedding x and a label text's embedding y, a
learned scale and a learned bias. There each image has one text, and every other text of the batch is a negative; here
the texts are the labels, and each pair of image and label is positive or negative by itself. Aktas and Garcia
("CLIP-based Few-Shot Multi-Label Classification Methods", III.C) train it so, with nothing frozen.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mlclip.heads.alignment import PROMPT
from mlclip.heads.base import Examples, FeatureShapes, Head, LabelTexts
from mlclip.heads.growth import Growth
from mlclip.settings import TrainConfig

SCALE, BIAS = 10.0, -10.0
"""Where the paper starts."""


class SiglipHead(Head):
    """What is left of SigLIP when a run is used: the label texts' embeddings, scale and bias.

    The configured loss, `bce` by default, applies to the logits. It is the paper's loss but for a constant: the paper
    sums -log sigmoid(±logit) over texts and averages over images, `bce` averages over both. Adam does not notice.

    Args:
        classes: N.
        width: D, the embedding's width.
        scale: exp(t') at the start. None for both this and `bias` fits them, before the first step, to what the
            encoder's similarities already say of the validation images' labels.
        bias: b at the start. The paper starts from 10 and -10: right from scratch, where every pair looks alike and
            nearly all are negative. A trained encoder tells pairs apart, and Adam at a fine-tuning rate moves both
            numbers little, so a start from there leaves all logits below 0 for long.
        text_batch: label texts a step, at most: those of the batch's labels and a random choice of the others, which
            then count for all of them. Classes beyond that cost no further text passes.
    """

    name: ClassVar[str] = "siglip"
    uses_text_tower = True
    defaults: ClassVar[TrainConfig] = TrainConfig(lr=5e-5, epochs=80, patience=10, batch_size=64)
    trains_encoder: ClassVar[bool] = True

    texts: Tensor

    def __init__(
        self,
        classes: int,
        width: int,
        *,
        scale: float | None = None,
        bias: float | None = None,
        text_batch: int = 256,
    ) -> None:
        super().__init__()
        if (scale is not None and scale <= 0) or text_batch < 1:
            raise ValueError(f"scale must be above 0 and text_batch at least 1, not {scale} and {text_batch}")
        self.config = {"classes": classes, "width": width, "scale": scale, "bias": bias, "text_batch": text_batch}
        self.inputs = ("embedding",)
        self.register_buffer("texts", torch.zeros(classes, width))
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE if scale is None else scale)))
        self.bias = nn.Parameter(torch.tensor(float(BIAS if bias is None else bias)))

    @classmethod
    def build(cls, classes: int, shapes: FeatureShapes, **options: Any) -> Self:
        """Build for an encoder's feature widths."""
        return cls(classes, shapes.embedding_width, **options)

    def prepare(self, train: Examples, validation: Examples, texts: LabelTexts, seed: int) -> None:
        """Keep the embeddings of the label texts, as the text tower now is."""
        self.texts.copy_(texts.encode(label_prompts(texts.labels)))

    def extended(self, growth: Growth) -> Self:
        """The new labels' texts, as the trained text tower reads them; nothing is trained."""
        whole = type(self)(**self.config | {"classes": len(growth.texts.labels)})
        new = growth.texts.encode(label_prompts(growth.new_labels))
        whole.load_state_dict(self.state_dict() | {"texts": torch.cat([self.texts, new])})
        return whole

    def forward(self, embedding: Tensor) -> Tensor:
        """Embedding float32 [B, D] to logits float32 [B, N]."""
        return self.pairs(embedding, self.texts)

    def pairs(self, embedding: Tensor, texts: Tensor) -> Tensor:
        """Logits [B, M] of every pair of an image [B, D] and a text [M, D], both L2-normalised."""
        return self.log_scale.exp() * (embedding @ texts.T) + self.bias


def label_prompts(labels: tuple[str, ...]) -> list[str]:
    """The texts that stand for labels."""
    return [PROMPT.format(label) for label in labels]
