"""Add classes to a trained head without training the known classes again.

New classes follow the old ones, which keep their thresholds and, where the method allows it, their scores. Only the new
classes are trained; see each head's `extended`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch

from mlclip.calibration import grown
from mlclip.checkpoint import Run
from mlclip.data import Dataset
from mlclip.data.dataset import Progress, quiet
from mlclip.encoders.features import FeatureCache
from mlclip.errors import MlclipError, TrainError
from mlclip.heads import Examples, Growth, Head, LabelTexts
from mlclip.metrics import evaluate
from mlclip.settings import ThresholdConfig, TrainConfig
from mlclip.thresholds import tune_thresholds
from mlclip.training.loop import Epoch, predict_outputs
from mlclip.training.runs import examples, figures, fit_head, run_cache, run_scores, unpromised

TOLERANCE = 1e-6
"""Scores closer than this are equal, since larger matrix products add up in a different order."""


@dataclass(frozen=True)
class Extension:
    """A run with its added classes, and the epochs of their training, if any.

    `largest_change` is that of an old class's score over all validation images; `note` says why, empty where scores
    stayed.
    """

    run: Run
    added: tuple[str, ...]
    epochs: tuple[Epoch, ...]
    largest_change: float
    note: str

    def line(self) -> str:
        """A summary in one line."""
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
    on_features: Progress = quiet,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Extension:
    """Add the classes of a dataset that a run does not know.

    An image without a new label counts as a negative. Labels that the run knows are not trained again; they only enter
    the figures. Without `training`, the new classes are trained with `run_settings`, or not at all where the method
    needs no training: text queries, `zeroshot`, `siglip`, neighbours. Without `thresholds`, theirs are chosen as the
    run's were; classes without a validation image get the median of the old ones.

    Raises TrainError if the data has no new class, a class that must be trained has no images, or the method takes no
    further classes.
    """
    added = tuple(name for name in dataset.classes if name not in run.labels)
    if not added:
        raise TrainError("every label of this data is already a class of the run: there is nothing to add")
    known, cache = len(run.labels), run_cache(run, cache)
    data = dataset.with_classes((*run.labels, *added))
    train, validation = (
        examples(run.head, data.split(name), cache, on_progress=on_features) for name in ("train", "val")
    )
    config = training or run_settings(run)
    texts = LabelTexts(data.classes, cache.encoder.encode_text)
    epochs: list[Epoch] = []

    def fit(head: Head) -> None:
        images, unseen = (replace(part, targets=part.targets[:, known:]) for part in (train, validation))
        epochs.extend(_fit_new(head, images, unseen, replace(texts, labels=added), config, on_epoch))

    growth = Growth(train, validation, texts, known, training is not None and training.epochs > 0, fit)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            head = run.head.extended(growth).eval().requires_grad_(False)
        except ValueError as error:
            raise TrainError(str(error)) from error
    new = replace(unpromised(run), head=head, labels=data.classes, calibration=grown(run.calibration, len(added)))
    scores, before = (run_scores(one, predict_outputs(one.head, validation.features)) for one in (new, run))
    change = float(np.abs(scores[:, :known] - before).max())
    limits = np.concatenate([run.thresholds, _new_thresholds(run, validation, scores, thresholds)])
    step = {"classes": known, "labels": list(added), "largest_change": change, "epochs_run": len(epochs)}
    return Extension(
        run=replace(
            new,
            thresholds=limits,
            training=new.training | {"extended": [*run.training.get("extended", []), step], "data_sha256": data.digest},
            metrics={"val": figures(evaluate(validation.targets, scores, limits, classes=data.classes), data)},
        ),
        added=added,
        epochs=tuple(epochs),
        largest_change=change,
        note=head.growth_note if change > TOLERANCE else "",
    )


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


def _new_thresholds(
    run: Run, validation: Examples, scores: npt.NDArray[np.float32], config: ThresholdConfig | None
) -> npt.NDArray[np.float32]:
    known, median = len(run.labels), np.median(run.thresholds)
    targets, scores = validation.targets[:, known:], scores[:, known:]
    if not targets.any():
        return np.full(targets.shape[1], median, dtype=np.float32)
    try:
        chosen = config or ThresholdConfig(**run.training.get("thresholds") or {})
    except (MlclipError, TypeError) as error:
        raise TrainError(f"the run's config.json: thresholds: {error}") from error
    found = tune_thresholds(targets, scores, **asdict(chosen))
    return np.where(targets.any(axis=0), found, median).astype(np.float32)


def run_settings(run: Run) -> TrainConfig:
    """The settings that a run was trained with, and the learning rate that suits further classes."""
    settings = recorded_training(run)
    return replace(settings, lr=settings.lr * run.head.growth_rate)


def recorded_training(run: Run) -> TrainConfig:
    """The settings that a run was trained with."""
    names = {field.name for field in fields(TrainConfig)}
    try:
        return TrainConfig(**{name: value for name, value in run.training.items() if name in names})
    except (MlclipError, TypeError, AttributeError) as error:
        raise TrainError(f"the run's config.json: training: {error}") from error
