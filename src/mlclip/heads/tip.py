"""Tip-Adapter for several labels: zero-shot similarity and the labels of similar training images, added up.

z = 100 cos(q, text) + α exp(-β (1 - F q)) L, with the query q, the training images' embeddings F [R, D] and their
labels L [R, N]: Zhang et al. 2021, https://arxiv.org/abs/2111.03930, which document 002, 5.1, names as what would join
labels' names and labelled images. The paper takes the best of the N logits; for several labels each needs a
probability, so the scores are σ(a z + b). Without a and b all would lie at 1.

Nothing is trained. What validation decides:

* α and β, for the best mAP. α is searched as a share of the ratio of the two terms' spreads, since the best α varies
  by many powers of ten with β and with the number of images per label.
* a and b, one pair for all classes, by logistic regression on all pairs of image and label. A pair per class would
  rest on a handful of positives; thresholds account for the classes' differences.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mlclip.heads.base import Growth, Head, each_batch
from mlclip.heads.contexts import Words
from mlclip.heads.growth import joined_references
from mlclip.heads.values import MOST_IMAGES, Examples, FeatureShapes, LabelTexts
from mlclip.heads.wording import Wording
from mlclip.metrics import mean_average_precision

BETAS = tuple(float(2**power) for power in range(9))
SHARES = (0.0, *(2.0**power for power in range(-4, 6)))

Array = npt.NDArray[np.float32]


class TipAdapter(Head):
    """Text and training images vote together.

    `build` takes the options of `mlclip.heads.wording.Wording.read` too.

    Args:
        contexts: C of them; see `mlclip.heads.contexts`.
        weights: one per context, 0 to 100.
        translations: language to words.
        alpha: α; None lets `finish` search it.
        beta: β; None lets `finish` search it.
    """

    name = "tip"
    source = "Zhang et al. 2021, https://arxiv.org/abs/2111.03930; 002, 5.1"
    uses_text_tower = True

    text: Tensor
    references: Tensor
    labels: Tensor
    alpha: Tensor
    beta: Tensor
    slope: Tensor
    intercept: Tensor

    def __init__(
        self,
        classes: int,
        width: int,
        *,
        contexts: Sequence[str],
        weights: Sequence[float],
        translations: Mapping[str, Words],
        alpha: float | None = None,
        beta: float | None = None,
        references: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta)):
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or above and finite, not {value}")
        self.wording = Wording(tuple(contexts), tuple(weights), translations)
        self.config = {"classes": classes, "width": width} | self.wording.config
        self.config |= {"alpha": alpha, "beta": beta, "references": references}
        self.register_buffer("text", torch.zeros(classes, width))
        for name, value in (("alpha", alpha or 0.0), ("beta", beta or 0.0), ("slope", 1.0), ("intercept", 0.0)):
            self.register_buffer(name, torch.tensor(float(value)))
        self._keep(torch.zeros(references, width), torch.zeros(references, classes))

    @classmethod
    def build(cls, classes: int, shapes: FeatureShapes, **options: Any) -> Self:
        """Build for an encoder's feature widths; files of contexts and translations are read here."""
        own = {name: options.pop(name) for name in ("alpha", "beta") if name in options}
        return cls(classes, shapes.embedding_width, **Wording.read(**options).config, **own)

    def prepare(self, train: Examples, validation: Examples, texts: LabelTexts, seed: int) -> None:
        """Embed the labels, and keep the training images."""
        self._facts = self.wording.facts(texts.labels)
        self.text.copy_(self.wording.embed(texts.labels, texts.encode))
        (embedding,) = train.features[:]
        self._keep(torch.from_numpy(embedding), torch.from_numpy(train.targets.astype(np.float32)))
        self.reference_ids = train.ids

    @torch.no_grad()
    def finish(self, validation: Examples) -> None:
        """Find α and β, where they are not given, then a and b."""
        validation = validation.at_most(MOST_IMAGES)
        targets, by_text = validation.targets, each_batch(self.by_text, validation.features)

        @cache
        def by_images(beta: float) -> Array:
            return each_batch(lambda embedding: self.by_images(embedding, beta), validation.features)

        alpha, beta = search(targets, by_text, by_images, self.config["alpha"], self.config["beta"])
        slope, intercept = calibrate(targets, by_text + np.float32(alpha) * by_images(beta))
        found = {"alpha": alpha, "beta": beta, "slope": slope, "intercept": intercept}
        for name, value in found.items():
            getattr(self, name).fill_(value)
        self._facts = {**self._facts, **found}

    def extended(self, growth: Growth) -> Self:
        """The new labels' texts, and images that have them; α, β, a and b stay.

        Images that join count for their new labels alone, so the old classes' logits stay.
        """
        ids, references, labels = joined_references(
            self.reference_ids, self.references, self.labels, growth, old_labels=False
        )
        whole = self.rebuilt(classes=len(growth.texts.labels), references=len(ids))
        new = self.wording.embed(growth.new_labels, growth.texts.encode)
        text = torch.cat([self.text, new])
        whole.load_state_dict(self.state_dict() | {"text": text, "references": references, "labels": labels})
        whole.reference_ids = ids
        whole._facts = self.facts() | self.wording.facts(growth.texts.labels)
        return whole

    def forward(self, embedding: Tensor) -> Tensor:
        """Embedding float32 [B, D] to logits a z + b, float32 [B, N]."""
        z = self.by_text(embedding) + self.alpha * self.by_images(embedding, self.beta)
        return self.slope * z + self.intercept

    def scores_without(self, own: Tensor, *features: Tensor) -> Tensor:
        """As in `Head`."""
        (embedding,) = features
        itself = (own >= 0).float() * (self.beta * ((embedding * self.references[own]).sum(dim=1) - 1)).exp()
        logits: Tensor = self(embedding) - self.slope * self.alpha * itself[:, None] * self.labels[own]
        return logits

    def by_text(self, embedding: Tensor) -> Tensor:
        """100 cos(q, text): [B, D] to [B, N]."""
        return 100 * embedding @ self.text.T

    def by_images(self, embedding: Tensor, beta: float | Tensor) -> Tensor:
        """exp(-β (1 - F q)) L: [B, D] to [B, N]."""
        return torch.exp(beta * (embedding @ self.references.T - 1)) @ self.labels

    def reference_targets(self) -> Tensor:
        """The training images' labels: [R, N]."""
        return self.labels

    def _keep(self, references: Tensor, labels: Tensor) -> None:
        self.config["references"] = len(references)
        self.register_buffer("references", references)
        self.register_buffer("labels", labels)


def search(
    targets: npt.NDArray[np.uint8],
    by_text: Array,
    by_images: Callable[[float], Array],
    alpha: float | None = None,
    beta: float | None = None,
) -> tuple[float, float]:
    """Find α and β in turn, each on its grid, until neither improves mAP.

    Targets [V, N] are 0 or 1, and at least one is 1. `by_text`, float32 [V, N], is the first term of z; `by_images`
    maps β to the second term without α. A given `alpha` or `beta` is kept.
    """

    def alpha_of(share: float, beta: float) -> float:
        return share * float(by_text.std() / max(by_images(beta).std(), 1e-30)) if alpha is None else alpha

    @cache
    def quality(share: float, beta: float) -> float:
        z = by_text + np.float32(alpha_of(share, beta)) * by_images(beta)
        return mean_average_precision(targets, z) or 0.0

    betas = BETAS if beta is None else (beta,)
    shares = SHARES if alpha is None else (1.0,)
    best = (1.0, betas[len(betas) // 2])
    while True:
        share = best[0]
        beta = max(betas, key=lambda value: quality(share, value))
        step = (max(shares, key=lambda value: quality(value, beta)), beta)
        if not quality(*step) > quality(*best):
            return alpha_of(*best), best[1]
        best = step


def calibrate(targets: npt.NDArray[np.uint8], z: Array) -> tuple[float, float]:
    """Fit a and b of σ(a z + b) to targets [V, N], 0 or 1, by logistic regression over all pairs; z is float32 [V, N].

    scikit-learn's default L2 penalty keeps a finite where z separates the pairs. a stays above 0, so that the ranking
    of images within a label is kept even where z misleads over all labels together.
    """
    values, truth = z.astype(np.float64).ravel(), targets.ravel()
    mean, spread = values.mean(), values.std() or 1.0
    if truth.min() == truth.max():
        return 1 / spread, -mean / spread
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # slow to load

    model = LogisticRegression().fit(((values - mean) / spread)[:, None], truth)
    slope = max(float(model.coef_[0, 0]), 1e-3) / spread
    return slope, float(model.intercept_[0]) - slope * mean
