"""SigLIP: images against the texts of the labels, a sigmoid per pair; both towers are trained.

The logits are those of Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training",
https://arxiv.org/abs/2303.15343: exp(t') x·y + b, with the image's embedding x and a label text's embedding y, a
learned scale and a learned bias. There each image has one text, and every other text of the batch is a negative; here
the texts are the labels, and each pair of image and label is positive or negative by itself. Aktas and Garcia
("CLIP-based Few-Shot Multi-Label Classification Methods", III.C) train it so, with nothing frozen.
"""

from __future__ import annotations

import logging
import math
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from torch import Tensor, nn

from mlclip.heads.base import Growth, Head
from mlclip.heads.values import Examples, LabelTexts
from mlclip.settings import TrainConfig

SCALE, BIAS = 10.0, -10.0
"""Where the paper starts."""
_log = logging.getLogger(__name__)


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
    trains_encoder = True

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
        self.text_batch = text_batch
        self.register_buffer("texts", torch.zeros(classes, width))
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE if scale is None else scale)))
        self.bias = nn.Parameter(torch.tensor(float(BIAS if bias is None else bias)))

    def prepare(self, train: Examples, validation: Examples, texts: LabelTexts, seed: int) -> None:
        """Keep the embeddings of the label texts, as the text tower now is."""
        self.texts.copy_(texts.embeddings())

    def extended(self, growth: Growth) -> Self:
        """The new labels' texts, as the trained text tower reads them; nothing is trained."""
        whole = self.rebuilt(classes=len(growth.texts.labels))
        new = growth.new_texts.embeddings()
        whole.load_state_dict(self.state_dict() | {"texts": torch.cat([self.texts, new])})
        return whole

    def forward(self, embedding: Tensor) -> Tensor:
        """Embedding float32 [B, D] to logits float32 [B, N]."""
        return self.pair_logits(embedding, self.texts)

    def pair_logits(self, embedding: Tensor, texts: Tensor) -> Tensor:
        """Logits [B, M] of every pair of an image [B, D] and a text [M, D], both L2-normalised."""
        return self.log_scale.exp() * (embedding @ texts.T) + self.bias

    def calibrate(self, logits: npt.NDArray[np.float32], targets: npt.NDArray[np.uint8]) -> None:
        """Unless given, start scale and bias from a logistic regression of the targets on cosine similarities.

        Both stay where similarities say nothing about the labels, as those of an untrained encoder.
        """
        if self.config["scale"] is not None or self.config["bias"] is not None or targets.all():
            return
        cosines = (logits - self.bias.item()) / self.log_scale.exp().item()
        fit = LogisticRegression(C=1e6).fit(cosines.reshape(-1, 1), targets.ravel())
        scale, bias = float(fit.coef_[0, 0]), float(fit.intercept_[0])
        if 1 <= scale <= 100:
            with torch.no_grad():
                self.log_scale.fill_(math.log(scale))
                self.bias.fill_(bias)
            _log.info("fine-tuning: scale %.1f and bias %.1f to start with", scale, bias)
