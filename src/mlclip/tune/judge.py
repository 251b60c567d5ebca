"""How good settings are: a head is trained with them, measured on the validation split, and discarded.

Features, targets and label texts are read once and stay in memory; a trial of a head without gradient steps then costs
little more than scoring the validation images.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mlclip.data import Dataset
from mlclip.data.dataset import Progress
from mlclip.encoders.clip import Encoder
from mlclip.encoders.features import FeatureCache
from mlclip.errors import TrainError
from mlclip.heads import Examples, Head, LabelTexts
from mlclip.metrics import mean_average_precision
from mlclip.settings import Recipe
from mlclip.thresholds import best_threshold, select
from mlclip.training.loop import predict_scores
from mlclip.training.runs import examples, fit_head, untrained_head
from mlclip.tune.space import Settings, apply

Figure = Literal["f", "map"]


@dataclass(frozen=True)
class Judgement:
    """How good settings are; see `Trial`."""

    score: float
    threshold: float | None
    error: str | None = None


class Judge:
    """Measures settings, put into a recipe, on the validation split; see `Search` for `figure` and `beta`."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        encoder: Encoder,
        cache: FeatureCache,
        figure: Figure,
        beta: float,
        on_features: Progress,
    ) -> None:
        self.recipe, self.dataset, self.encoder, self.cache = recipe, dataset, encoder, cache
        self.figure, self.beta, self.on_features = figure, beta, on_features
        self.texts = LabelTexts(dataset.classes, remembered(encoder.encode_text))
        self._parts: dict[tuple[str, ...], tuple[Examples, Examples]] = {}

    def __call__(self, settings: Settings) -> Judgement:
        """Train and measure; settings that cannot work score 0, with the reason as `error`."""
        try:
            recipe = apply(self.recipe, settings)
            head = untrained_head(recipe, self.dataset, self.encoder)
            train, validation = self._examples(head)
            fit_head(head, train, validation, self.texts, recipe.training or head.defaults)
        except (TrainError, ValueError, TypeError) as error:
            return Judgement(0.0, None, str(error))
        scores = predict_scores(head, validation.features)
        score, threshold = best_f_beta(validation.targets, scores, self.beta)
        if self.figure == "map":
            score = mean_average_precision(validation.targets, scores) or 0.0
        return Judgement(score, threshold)

    def fingerprint(self) -> str:
        """Hex digest of the data as a search sees it: file names, labels and splits, the encoder's features."""
        digest = hashlib.sha256(repr((self.encoder.fingerprint, self.dataset.classes)).encode())
        for item in (*self.dataset.split("train").items, *self.dataset.split("val").items):
            digest.update(repr((item.path.name, item.labels, item.split)).encode())
        return digest.hexdigest()[:16]

    def _examples(self, head: Head) -> tuple[Examples, Examples]:
        if head.inputs not in self._parts:
            self._parts[head.inputs] = (
                examples(head, self.dataset.split("train"), self.cache, on_progress=self.on_features),
                examples(head, self.dataset.split("val"), self.cache, on_progress=self.on_features),
            )
        return self._parts[head.inputs]


def best_f_beta(targets: npt.NDArray[np.generic], scores: npt.NDArray[np.float32], beta: float) -> tuple[float, float]:
    """The best micro F-beta [R, N] scores can reach with one threshold for all classes, and that threshold."""
    threshold = float(best_threshold(targets.ravel(), scores.ravel(), beta=beta))
    selected, truth = select(scores, threshold), targets.astype(np.bool_)
    hits, chosen, positives = (int(part.sum()) for part in (selected & truth, selected, truth))
    return (1 + beta**2) * hits / (beta**2 * positives + chosen), threshold


def remembered(encode: Callable[[Sequence[str]], Tensor]) -> Callable[[Sequence[str]], Tensor]:
    """An `encode` that encodes every text once."""
    known: dict[str, Tensor] = {}

    def encode_new(texts: Sequence[str]) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, encode(new), strict=True))
        return torch.stack([known[text] for text in texts])

    return encode_new
