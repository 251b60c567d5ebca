"""Add classes to a trained head: labels that came up later, without a new training of what is known.

New classes go behind the old ones, which keep their thresholds and, where the method allows it, their scores. What is
trained is trained on the new classes alone; see each head's `extended` for what that is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mlclip.checkpoint import Run
from mlclip.data import Dataset
from mlclip.encoders.features import FeatureCache
from mlclip.errors import TrainError
from mlclip.heads import Examples, Growth, Head, LabelTexts
from mlclip.metrics import evaluate
from mlclip.settings import ThresholdConfig, TrainConfig
from mlclip.thresholds import tune_thresholds
from mlclip.training.loop import Epoch, predict_scores
from mlclip.training.runs import examples, fit_head, run_cache


@dataclass(frozen=True)
class Extension:
    """What came of adding classes.

    Attributes:
        run: the run with all classes.
        added: names of the new ones.
        epochs: of their training; none where nothing was trained.
        largest_change: of a score of an old class, over all validation images.
        note: why these scores moved; empty where they stayed.
    """

    run: Run
    added: tuple[str, ...]
    epochs: tuple[Epoch, ...]
    largest_change: float
    note: str

    def line(self) -> str:
        """What happened, in one line."""
        kept = f"scores of the old classes stay (largest difference on validation images: {self.largest_change:.1g})"
        moved = f"scores of the old classes moved by up to {self.largest_change:.3f}, since {self.note}"
        trained = f"trained for {len(self.epochs)} epochs" if self.epochs else "nothing was trained"
        return f"added {', '.join(self.added)}; {trained}; {moved if self.note else kept}; old thresholds are kept"


def extend_run(
    run: Run,
    dataset: Dataset,
    cache: FeatureCache,
    *,
    training: TrainConfig | None = None,
    thresholds: ThresholdConfig | None = None,
    on_features: Callable[[int, int], None] = lambda done, total: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Extension:
    """Add the classes of a dataset that a run does not know.

    Args:
        run: stays as it is.
        dataset: images with labels and splits. An image without a new label counts as one that does not have it.
            Labels that the run knows are not trained again; they only enter the figures.
        cache: features of the run's encoder.
        training: settings for the new classes' training. None takes `run_settings`, or no training where the method
            needs none: text queries, `zeroshot`, `siglip`, neighbours.
        thresholds: how the new classes' thresholds are chosen; None as the run's were. Classes that no validation
            image has get the median of the old ones.
        on_features: called with images done and to do while features are computed.
        on_epoch: called after each epoch.

    Raises:
        DataError: a split is empty.
        TrainError: the data has no new class, none of its images shows one that must be trained, or the method takes
            no further classes.
    """
    added = tuple(name for name in dataset.classes if name not in run.labels)
    if not added:
        raise TrainError("every label of this data is a class of the run already: there is nothing to add")
    known, cache = len(run.labels), run_cache(run, cache)
    data = dataset.with_classes((*run.labels, *added))
    train, validation = (
        examples(run.head, data.split(name), cache, on_progress=on_features) for name in ("train", "val")
    )
    config = training or run_settings(run)
    texts = LabelTexts(data.classes, cache.encoder.encode_text)
    epochs: list[Epoch] = []

    def fit(head: Head) -> None:
        images, unseen = _new_classes(train, known), _new_classes(validation, known)
        epochs.extend(_fit_new(head, images, unseen, replace(texts, labels=added), config, on_epoch))

    growth = Growth(train, validation, texts, known, training is not None and training.epochs > 0, fit)
    head = _extended(run.head, growth, config.seed).eval().requires_grad_(False)
    scores = predict_scores(head, validation.features)
    change = float(np.abs(scores[:, :known] - predict_scores(run.head, validation.features)).max())
    limits = np.concatenate([run.thresholds, _new_thresholds(run, validation, scores, thresholds)])
    step = {"classes": known, "labels": list(added), "largest_change": change, "epochs_run": len(epochs)}
    return Extension(
        run=replace(
            run,
            head=head,
            labels=data.classes,
            thresholds=limits,
            training=run.training | {"extended": [*run.training.get("extended", []), step]},
            metrics={"val": evaluate(validation.targets, scores, limits, classes=data.classes).to_dict()},
        ),
        added=added,
        epochs=tuple(epochs),
        largest_change=change,
        note=head.growth_note if change > TOLERANCE else "",
    )


TOLERANCE = 1e-6
"""Scores closer than this are equal: larger matrix products add up in another order."""


def _fit_new(
    head: Head,
    train: Examples,
    validation: Examples,
    texts: LabelTexts,
    config: TrainConfig,
    on_epoch: Callable[[Epoch], None],
) -> list[Epoch]:
    unseen = [name for name, count in zip(texts.labels, train.targets.sum(axis=0), strict=True) if not count]
    if unseen:
        raise TrainError(f"no training image has the new label {unseen[0]!r}: label some, or leave it out")
    if not validation.targets.any():
        raise TrainError("no validation image has a new label: label some, so that training knows when to stop")
    return fit_head(head, train, validation, texts, config, on_epoch=on_epoch)


def _extended(head: Head, growth: Growth, seed: int) -> Head:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return head.extended(growth)
        except ValueError as error:
            raise TrainError(str(error)) from error


def _new_thresholds(
    run: Run, validation: Examples, scores: npt.NDArray[np.float32], config: ThresholdConfig | None
) -> npt.NDArray[np.float32]:
    known, median = len(run.labels), np.median(run.thresholds)
    targets, scores = validation.targets[:, known:], scores[:, known:]
    if not targets.any():
        return np.full(targets.shape[1], median, dtype=np.float32)
    chosen = asdict(config) if config else _known(ThresholdConfig, run.training.get("thresholds") or {})
    try:
        found = tune_thresholds(targets, scores, **chosen)
    except (ValueError, TypeError) as error:
        raise TrainError(f"the run's way to choose thresholds works no more: give --thresholds ({error})") from error
    return np.where(targets.any(axis=0), found, median).astype(np.float32)


def _new_classes(part: Examples, known: int) -> Examples:
    return replace(part, targets=part.targets[:, known:])


def run_settings(run: Run) -> TrainConfig:
    """The settings that a run was trained by, with the learning rate that suits its further classes."""
    settings = recorded_training(run)
    return replace(settings, lr=settings.lr * run.head.growth_rate)


def recorded_training(run: Run) -> TrainConfig:
    """The settings that a run was trained by; settings that are not known any more are left aside.

    Raises:
        TrainError: a value is not known any more.
    """
    try:
        return TrainConfig(**_known(TrainConfig, run.training))
    except (ValueError, TypeError) as error:
        raise TrainError(f"the settings that this run was trained by work no more: train it again ({error})") from error


def _known(settings: type[TrainConfig | ThresholdConfig], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What a run recorded, without what an earlier version had and this one has not."""
    names = {field.name for field in fields(settings)}
    return {name: value for name, value in recorded.items() if name in names}
