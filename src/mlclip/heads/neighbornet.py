"""The simple neighbor net: neighbour search without a filter, as two matrices that can be fine-tuned.

ŷ = Lᵀ softmax(e^τ F q), with the references' embeddings F [R, D], their labels L [R, N] and the query q: Bynke 2022,
"Multi-label image classification with language-image models" (master's thesis, NTNU; document 002), 3.2.3, after
Orhan 2018, https://arxiv.org/abs/1805.07709, and Zhang et al. 2021, "Tip-Adapter", https://arxiv.org/abs/2111.03930.

Beside F and L, a batch of B images takes similarities and weights [B, R] and nothing of size B·R·N. Measured at B = 32,
R = 80,000, N = 159, D = 512 (164 MB + 51 MB of weights): 55 MB in torch, 220 MB more for a step of fine-tuning, of
which F's gradient is 164 MB, and 25 MB in onnxruntime.
"""

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlclip.heads.base import Growth, Head
from mlclip.heads.growth import joined_references
from mlclip.heads.index import largest
from mlclip.heads.prototypes import check_prototypes, make_prototypes
from mlclip.heads.temperature import TEMPERATURES, best_temperature
from mlclip.heads.values import Examples, LabelTexts, Range
from mlclip.settings import TrainConfig

TOP = 32
"""Most references that an answer names."""


class NeighborNet(Head):
    """Every reference votes with its labels, weighted by a softmax over all similarities.

    Fine-tuning moves F and τ by the mean squared error of the scores; L stays, and nothing has a bias. Without
    prototypes there is little to learn, since every training image finds itself among the references. Only a net that
    keeps the training images unchanged, neither averaged nor fine-tuned, names the heaviest of them in its answers.

    Args:
        prototypes: averaged references per class; None keeps every training image.
        grouping: how prototypes are grouped: `random` or `kmeans`. Empty groups are zero vectors without labels,
            whose similarity is 0.
        labels: labels of a prototype: `averaged` over its images, or `onehot`.
        temperature: e^τ, the factor on cosine similarities; with fine-tuning, its initial value. None takes the one
            of `temperature.TEMPERATURES` with the best validation mAP; the thesis found 105.6 for CLIP's embeddings
            without prototypes.
        fine_tune: train F and τ.
    """

    name = "neighbornet"
    source = "Orhan 2018, https://arxiv.org/abs/1805.07709; 002, 3.2.3"
    defaults = TrainConfig(
        optimizer="sgd", schedule="cosine", lr=9.805, momentum=0.366, batch_size=33, epochs=12, patience=12
    )
    growth_note = "images that joined the references take part in the softmax"
    search = {"temperature": Range(1, 200, log=True)}

    labels: Tensor

    def __init__(
        self,
        classes: int,
        width: int,
        *,
        prototypes: int | None = None,
        grouping: str = "kmeans",
        labels: str = "averaged",
        temperature: float | None = None,
        fine_tune: bool = False,
        references: int = 0,
    ) -> None:
        super().__init__()
        check_prototypes(prototypes, grouping, labels)
        if temperature is not None and not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be above 0 and finite, not {temperature}")
        self.config = {
            "classes": classes, "width": width, "prototypes": prototypes, "grouping": grouping, "labels": labels,
            "temperature": temperature, "fine_tune": fine_tune, "references": references,
        }  # fmt: skip
        named = ("reference_index", "reference_weight") if prototypes is None and not fine_tune else ()
        self.outputs = ("scores", *named)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature or 1)), requires_grad=fine_tune)
        self._keep(torch.zeros(references, width), torch.zeros(references, classes))

    def prepare(self, train: Examples, validation: Examples, texts: LabelTexts, seed: int) -> None:
        """The training images, or their prototypes, become the references."""
        (embedding,) = train.features[:]
        options = self.config
        if options["prototypes"] is None:
            self._keep(torch.from_numpy(embedding), torch.from_numpy(train.targets.astype(np.float32)))
        else:
            how = {name: options[name] for name in ("grouping", "labels")}
            made = make_prototypes(embedding, train.targets, options["prototypes"], **how, seed=seed)
            self._keep(torch.from_numpy(made.vectors), torch.from_numpy(made.labels))
        self.reference_ids = train.ids if self.names_references else ()
        if options["temperature"] is None:
            options["temperature"] = found = best_temperature(self._at_all_temperatures, validation)
            self.log_temperature.data.fill_(math.log(found))

    def with_references(self, ids: Sequence[str], features: Tensor, targets: Tensor) -> Self:
        """The same head with other references, unless prototypes or fine-tuning made its own."""
        head = self.rebuilt(classes=targets.shape[1])
        head._keep(features, targets.to(features.dtype))
        head.reference_ids = tuple(ids)
        return head.eval()

    def reference_features(self) -> Tensor:
        """The references' embeddings: float32 [R, D]."""
        return self.references.detach()

    def extended(self, growth: Growth) -> Self:
        """References get the new labels they have, and training images with a new label join them.

        Refused where the references were averaged or fine-tuned for the old classes.
        """
        if not self.names_references:
            raise ValueError(
                "a neighbornet with prototypes or fine-tuning takes no further classes, since one softmax runs over "
                "all its references: train a new head on all labels"
            )
        features, targets = self.reference_features(), self.reference_targets()
        return self.with_references(*joined_references(self.reference_ids, features, targets, growth, old_labels=True))

    def forward(self, embedding: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Embedding float32 [B, D] to scores float32 [B, N], and the heaviest references where they are named."""
        similarity = F.linear(embedding, self.references)
        weights = self._weights(similarity)
        scores = (weights @ self.labels).clamp(max=1)  # rounding can exceed 1 in the last bit
        if not self.names_references:
            return scores
        _, index = largest(similarity, min(self.config["references"], TOP))
        return scores, index.int(), weights.gather(1, index)

    def scores_without(self, own: Tensor, *features: Tensor) -> Tensor:
        """As in `Head`."""
        similarity = F.linear(features[0], self.references)
        itself = own[:, None] == torch.arange(len(self.references))
        return (self._weights(similarity.masked_fill(itself, -torch.inf)) @ self.labels).clamp(max=1)

    def loss(self, features: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean squared error of the scores."""
        (embedding,) = features
        return F.mse_loss(self._weights(F.linear(embedding, self.references)) @ self.labels, targets)

    def reference_targets(self) -> Tensor:
        """The references' labels: float32 [R, N], 0 or 1 where they are training images."""
        return self.labels

    def _weights(self, similarity: Tensor) -> Tensor:
        return (self.log_temperature.exp() * similarity).softmax(dim=1)

    def _at_all_temperatures(self, embedding: Tensor) -> Tensor:
        similarity = F.linear(embedding, self.references)
        return torch.stack([(value * similarity).softmax(dim=1) @ self.labels for value in TEMPERATURES], dim=1)

    def _keep(self, references: Tensor, labels: Tensor) -> None:
        self.config["references"] = len(references)
        self.references = nn.Parameter(references, requires_grad=self.config["fine_tune"])
        self.register_buffer("labels", labels)
