"""Zero-shot: images against the texts of the labels, nothing trained.

Bynke 2022 (document 002), "Language-image model", after Radford et al. 2021, https://arxiv.org/abs/2103.00020: labels
are put into contexts, and the cosine similarity of image and text is rescaled from [-1, 1] to [0, 1], since a softmax
would make labels exclude each other.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from mlclip.heads.base import Growth, Head
from mlclip.heads.contexts import Words
from mlclip.heads.values import Examples, FeatureShapes, LabelTexts, Range
from mlclip.heads.wording import Wording


class ZeroShot(Head):
    """Cosine similarity to each class's text embedding, as a score.

    `build` takes the options of `mlclip.heads.wording.Wording.read`: files or values of `contexts`, `weights` and
    `translations`, and `keep_labels`; `config` holds the result.

    Args:
        contexts: C of them; see `mlclip.heads.contexts`.
        weights: one per context, 0 to 100.
        translations: language to words.
    """

    name = "zeroshot"
    source = "Radford et al. 2021, https://arxiv.org/abs/2103.00020; 002, 3.2.1"
    uses_text_tower = True
    search = {"weights": Range(0, 100, each="contexts")}

    outputs = ("scores",)
    text: Tensor

    def __init__(
        self,
        classes: int,
        width: int,
        *,
        contexts: Sequence[str],
        weights: Sequence[float],
        translations: Mapping[str, Words],
    ) -> None:
        super().__init__()
        self.wording = Wording(tuple(contexts), tuple(weights), translations)
        self.config = {"classes": classes, "width": width} | self.wording.config
        self.register_buffer("text", torch.zeros(classes, width))

    @classmethod
    def build(cls, classes: int, shapes: FeatureShapes, **options: Any) -> Self:
        """Build for an encoder's feature widths; files are read here."""
        return cls(classes, shapes.embedding_width, **Wording.read(**options).config)

    def prepare(self, train: Examples, validation: Examples, texts: LabelTexts, seed: int) -> None:
        """Embed the labels; no image is used."""
        self._facts = self.wording.facts(texts.labels)
        self.text.copy_(self.wording.embed(texts.labels, texts.encode))

    def extended(self, growth: Growth) -> Self:
        """The new labels' texts."""
        whole = self.rebuilt(classes=len(growth.texts.labels))
        new = self.wording.embed(growth.new_labels, growth.texts.encode)
        whole.load_state_dict({"text": torch.cat([self.text, new])})
        whole._facts = self.wording.facts(growth.texts.labels)
        return whole

    def forward(self, embedding: Tensor) -> Tensor:
        """Embedding float32 [B, D] to scores float32 [B, N] in [0, 1]."""
        return ((1 + embedding @ self.text.T) / 2).clamp(0, 1)  # rounding can leave the range in the last bit
