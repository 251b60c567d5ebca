"""Training and prediction with scikit-learn's verbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlclip.checkpoint import load_run, save_run
from mlclip.data import Dataset, Item, assign_splits
from mlclip.encoders.clip import DEFAULT_ENCODER, Encoder, load_encoder
from mlclip.encoders.features import DEFAULT_CACHE, FeatureCache
from mlclip.errors import TrainError
from mlclip.settings import Recipe, ThresholdConfig, TrainConfig
from mlclip.thresholds import select
from mlclip.training.loop import predict_scores
from mlclip.training.runs import head_features, run_cache, train_run


class MultiLabelClassifier:
    """A multi-label head on a frozen CLIP encoder, from image files to scores.

    >>> classifier = MultiLabelClassifier("mld").fit(paths, [["dog", "grass"], ["car"], ...])  # doctest: +SKIP
    >>> classifier.predict(["new.jpg"])  # doctest: +SKIP
    [('dog',)]

    Args:
        head: a name in `HEADS`.
        encoder: an encoder's name, or a loaded encoder.
        pretrained: tag or file of its weights; see `load_encoder`.
        options: the head's own options, such as `{"groups": 100}`.
        training: None takes the head's defaults.
        cache: folder of the features cache.

    Attributes:
        classes_: the N class names, once fitted.
        run_: the trained `Run`, once fitted.
    """

    def __init__(
        self,
        head: str = "mld",
        encoder: str | Encoder = DEFAULT_ENCODER,
        pretrained: str | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        training: TrainConfig | None = None,
        thresholds: ThresholdConfig | None = None,
        cache: Path = DEFAULT_CACHE,
    ) -> None:
        self.recipe = Recipe(head, options or {}, training, thresholds or ThresholdConfig())
        self.encoder = encoder if isinstance(encoder, Encoder) else load_encoder(encoder, pretrained)
        self.cache = FeatureCache(self.encoder, cache)

    def fit(
        self,
        images: Sequence[Path | str],
        labels: Sequence[Sequence[str]],
        texts: Sequence[str | None] | None = None,
        *,
        validation: float = 0.2,
        seed: int = 0,
    ) -> MultiLabelClassifier:
        """Train on R image files with R lists of label names, and with R texts for heads that read them (`fusion`).

        A text is None for an image without one. `validation` is the share of the images, in (0, 1), that decides when
        to stop and chooses thresholds; `seed` seeds its choice, which is stratified by label.
        """
        if len(images) != len(labels):
            raise TrainError(f"{len(images)} images but {len(labels)} label lists: give one list per image")
        items = tuple(
            replace(item, labels=tuple(names)) for item, names in zip(_items(images, texts), labels, strict=True)
        )
        classes = tuple(sorted({name for item in items for name in item.labels}))
        dataset = assign_splits(Dataset(items, classes), (1 - validation, validation, 0.0), seed)
        self.run_ = train_run(dataset, self.encoder, self.cache, self.recipe)
        self.classes_ = self.run_.labels
        return self

    def predict_proba(
        self, images: Sequence[Path | str], texts: Sequence[str | None] | None = None
    ) -> npt.NDArray[np.float32]:
        """Scores float32 [R, N] in [0, 1] of R image files, with their texts; not calibrated probabilities."""
        part = Dataset(_items(images, texts), self.run_.labels)
        cache = run_cache(self.run_, self.cache)
        return predict_scores(self.run_.head, head_features(self.run_.head, part, cache))

    def predict(self, images: Sequence[Path | str], texts: Sequence[str | None] | None = None) -> list[tuple[str, ...]]:
        """The selected labels of R image files, with their texts, in class order."""
        selected = select(self.predict_proba(images, texts), self.run_.thresholds)
        return [tuple(self.run_.labels[n] for n in np.flatnonzero(row)) for row in selected]

    def save(self, folder: Path | str) -> None:
        """Write the run folder that `mlclip-export` and `load` read."""
        save_run(Path(folder), self.run_)

    @classmethod
    def load(cls, folder: Path | str, cache: Path = DEFAULT_CACHE) -> MultiLabelClassifier:
        """Read a run folder."""
        run = load_run(Path(folder))
        classifier = cls(run.head_name, run.encoder.load(), cache=cache)
        classifier.run_, classifier.classes_ = run, run.labels
        return classifier


def _items(images: Sequence[Path | str], texts: Sequence[str | None] | None) -> tuple[Item, ...]:
    if texts is None:
        texts = [None] * len(images)
    if len(texts) != len(images):
        raise TrainError(f"{len(images)} images but {len(texts)} texts: give one per image, None where there is none")
    return tuple(Item(Path(image), text=text) for image, text in zip(images, texts, strict=True))
