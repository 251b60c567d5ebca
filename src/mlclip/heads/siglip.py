"""SigLIP: images against the texts of the labels, a sigmoid per pair; both towers are trained.

The logits are those of Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training",
https://arxiv.org/abs/2303.15343: exp(t') x·y + b, with the image's embedding x and a label text's embedding y, a
learned scale and a learned bias. There each image has one text, and every other text of the batch is a negative; here
the texts are the labels, and each pair of image and label is positive or negative on its own, as in Aktas and Garcia
("CLIP-based Few-Shot Multi-Label Classification Methods", III.C), where nothing is frozen.
"""

import logging
import math
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mlclip.heads.base import Growth, Head
from mlclip.heads.values import Examples, LabelTexts
from mlclip.settings import TrainConfig

SCALE, BIAS = 10.0, -10.0
"""The paper's initial values."""
_log = logging.getLogger(__name__)


class SiglipHead(Head):
    """What remains of SigLIP when a run is used: the label texts' embeddings, scale and bias.

    The configured loss, `bce` by default, applies to the logits. It is the paper's loss up to a constant factor, which
    does not affect Adam: the paper sums -log sigmoid(±logit) over texts, `bce` averages over texts too.

    Args:
        scale: initial exp(t'). If both this and `bias` are None, they are those of the checkpoint, where it was trained
            with a sigmoid; else they are fitted to the validation images' labels, as its similarities predict them.
        bias: initial b. The paper starts from 10 and -10, which suits training from scratch, where all pairs look alike
            and nearly all are negative. A trained encoder tells pairs apart, and Adam at a fine-tuning rate changes
            both numbers little, so that all logits would stay below 0 for long.
        text_batch: label texts per step, at most: those of the batch's labels and a random sample of the others, which
            is weighted to represent all of them. More classes cost no further text passes.
    """

    name = "siglip"
    source = "Zhai et al. 2023, https://arxiv.org/abs/2303.15343; 000, III.C"
    uses_text_tower = True
    defaults = TrainConfig(lr=5e-5, epochs=80, patience=10, batch_size=64)
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
        """Keep the label texts' embeddings from the trained text tower."""
        self.texts.copy_(texts.embeddings())

    def extended(self, growth: Growth) -> Self:
        """The new labels' texts, embedded by the trained text tower; nothing is trained."""
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

    def calibrate(
        self, logits: npt.NDArray[np.float32], targets: npt.NDArray[np.uint8], pretrained: tuple[float, float] | None
    ) -> None:
        """Unless given, start scale and bias from the checkpoint's, or from a regression of targets on cosines.

        Both stay where similarities do not predict labels, as with an untrained encoder.
        """
        if self.config["scale"] is not None or self.config["bias"] is not None:
            return
        if pretrained is not None:
            self._start(*pretrained)
            return
        if targets.all():
            return
        cosines = (logits - self.bias.item()) / self.log_scale.exp().item()
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # slow to load

        fit = LogisticRegression(C=1e6).fit(cosines.reshape(-1, 1), targets.ravel())
        scale, bias = float(fit.coef_[0, 0]), float(fit.intercept_[0])
        if 1 <= scale <= 100:
            self._start(scale, bias)

    def _start(self, scale: float, bias: float) -> None:
        with torch.no_grad():
            self.log_scale.fill_(math.log(scale))
            self.bias.fill_(bias)
        _log.info("fine-tuning: scale %.1f and bias %.1f to start with", scale, bias)
