"""From a dataset to a run: features, head, training, thresholds, figures."""

import logging
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mlclip.calibration import calibrated
from mlclip.checkpoint import EncoderRef, Run
from mlclip.data import Dataset
from mlclip.data.dataset import Progress, quiet
from mlclip.encoders.clip import Encoder
from mlclip.encoders.features import TEXT_KINDS, FeatureCache, Features
from mlclip.errors import TrainError
from mlclip.heads import Examples, FeatureShapes, Head, LabelTexts, build_head, find_head
from mlclip.metrics import Metrics, evaluate
from mlclip.settings import Recipe, ThresholdConfig, TrainConfig
from mlclip.thresholds import tune_thresholds
from mlclip.training.finetune import finetune
from mlclip.training.loop import Epoch, output_scores, predict_outputs, predict_scores, train_head

_log = logging.getLogger(__name__)


def train_run(
    dataset: Dataset,
    encoder: Encoder,
    cache: FeatureCache,
    recipe: Recipe,
    *,
    on_features: Progress = quiet,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Run:
    """Train one head on the splits `train` and `val`; the run has validation figures in its metrics.

    The dataset's classes become the head's, in their order. The encoder is frozen, except that `siglip` fine-tunes a
    copy of it.
    """
    head = untrained_head(recipe, dataset, encoder)
    for name, value in recipe.options.items():
        used = head.config.get(name)
        if isinstance(value, Real) and isinstance(used, Real) and used != value:
            _log.warning("%s is %s, not %s, with %d classes", name, used, value, len(dataset.classes))
    steps = config = recipe.training or head.defaults
    history: list[Epoch] = []
    if head.trains_encoder:
        encoder, history = finetune(
            head, encoder, dataset, config, scratch=cache.root, on_images=on_features, on_epoch=on_epoch
        )
        cache, steps = cache.of(encoder), replace(config, epochs=0)
    texts = LabelTexts(dataset.classes, encoder.encode_text)
    train, validation = (
        examples(head, dataset.split(name), cache, on_progress=on_features) for name in ("train", "val")
    )
    history += fit_head(head, train, validation, texts, steps, on_epoch=on_epoch)
    scores = predict_scores(head, validation.features)
    thresholds = tune_thresholds(validation.targets, scores, **asdict(recipe.thresholds))
    best = max((epoch.number for epoch in history if epoch.best or config.keep == "last"), default=0)
    return Run(
        head=head.requires_grad_(False),
        labels=dataset.classes,
        thresholds=thresholds,
        encoder=EncoderRef.of(encoder, own=head.trains_encoder, text_tower=head.uses_text_tower),
        training=asdict(config)
        | {"data_sha256": dataset.digest, "options": dict(recipe.options), "thresholds": asdict(recipe.thresholds)}
        | {"best_epoch": best, "epochs_run": len(history), "facts": head.facts()},
        metrics={"val": figures(evaluate(validation.targets, scores, thresholds, classes=dataset.classes), dataset)},
    )


def figures(metrics: Metrics, dataset: Dataset) -> dict[str, Any]:
    """Figures as a run's `metrics` hold them, with the digest of the data they were measured on."""
    return metrics.to_dict() | {"data_sha256": dataset.digest}


def fit_head(
    head: Head,
    train: Examples,
    validation: Examples,
    texts: LabelTexts,
    config: TrainConfig,
    *,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> list[Epoch]:
    """Prepare, train and finish a newly built head in place, see `Head` for its life; return the epochs, if any.

    The heads that it consists of come first, each with its own defaults. Raises TrainError if the data does not suit
    the head, or if training fails.
    """
    for part in head.parts():
        seen, unseen = (_inputs(part, head, examples) for examples in (train, validation))
        fit_head(part, seen, unseen, texts, replace(part.defaults, seed=config.seed), on_epoch=on_epoch)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(config.seed)
            head.prepare(train, validation, texts, config.seed)
    except ValueError as error:
        raise TrainError(str(error)) from error
    text = texts.embeddings() if config.alignment_weight else None
    history = train_head(head, train, validation, config, text=text, on_epoch=on_epoch)
    head.finish(validation)
    return history


def _inputs(part: Head, head: Head, examples: Examples) -> Examples:
    """What a part of a head sees of the head's images."""
    tables = dict(zip(head.inputs, examples.features.tables, strict=True))
    return replace(examples, features=Features(tuple(tables[name] for name in part.inputs)))


def evaluate_run(
    run: Run, dataset: Dataset, cache: FeatureCache, split: str = "test", *, on_features: Progress = quiet
) -> Metrics:
    """Measure a run on a split; labels of the data that the run does not know are ignored."""
    targets, scores = split_scores(run, dataset, cache, split, on_features=on_features)
    return evaluate(targets, scores, run.thresholds, classes=run.labels)


def split_scores(
    run: Run, dataset: Dataset, cache: FeatureCache, split: str, *, raw: bool = False, on_features: Progress = quiet
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Targets and scores [R, N] of a split; an image that is a reference itself is left out of its own answer.

    With `raw`, the head's first output takes the place of scores.
    """
    cache, part = run_cache(run, cache), dataset.with_classes(run.labels).split(split)
    rows = {os.path.abspath(name): row for row, name in enumerate(run.head.reference_ids)}
    own = np.array([rows.get(os.path.abspath(item.path), -1) for item in part.items])
    outputs = predict_outputs(run.head, head_features(run.head, part, cache, on_progress=on_features), own)
    return part.targets(), outputs if raw else run_scores(run, outputs)


def run_scores(run: Run, outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A run's scores, calibrated if it is, of its head's first output; both float32 [R, N]."""
    if run.calibration is not None:
        return calibrated(outputs, run.head.outputs[0], run.calibration)
    return output_scores(run.head, outputs)


def retune_run(run: Run, dataset: Dataset, cache: FeatureCache, config: ThresholdConfig) -> Run:
    """Choose new thresholds for a run on the validation split; what its old ones promised is gone."""
    targets, scores = split_scores(run, dataset, cache, "val")
    tuned = replace(unpromised(run), thresholds=tune_thresholds(targets, scores, **asdict(config)))
    return measured(tuned, dataset, targets, scores, thresholds=asdict(config))


def without_record(run: Run, entry: str) -> Run:
    """A run whose record has no such entry: `promise`, of its thresholds, or `prevalence`, of its calibration."""
    return replace(run, training={name: value for name, value in run.training.items() if name != entry})


def unpromised(run: Run) -> Run:
    """A run whose thresholds promise nothing."""
    return without_record(run, "promise")


def measured(
    run: Run, dataset: Dataset, targets: npt.NDArray[np.uint8], scores: npt.NDArray[np.float32], **record: Any
) -> Run:
    """A run with the figures of validation scores [R, N], and with more in its record."""
    found = figures(evaluate(targets, scores, run.thresholds, classes=run.labels), dataset.with_classes(run.labels))
    return replace(run, metrics=run.metrics | {"val": found}, training=run.training | record)


def run_cache(run: Run, cache: FeatureCache) -> FeatureCache:
    """The cache of a run's encoder: the given one, or one beside it if that belongs to another encoder."""
    return cache if run.encoder.fits(cache.encoder) else cache.of(run.encoder.load())


def head_features(head: Head, part: Dataset, cache: FeatureCache, *, on_progress: Progress = quiet) -> Features:
    """The features that a head reads, for the items of a dataset."""
    paths, texts = [item.path for item in part.items], [item.text for item in part.items]
    return Features(
        tuple(
            cache.text_rows(texts, kind, on_progress=on_progress)
            if kind in TEXT_KINDS
            else cache.rows(paths, kind, on_progress=on_progress)
            for kind in head.inputs
        )
    )


def examples(head: Head, part: Dataset, cache: FeatureCache, *, on_progress: Progress = quiet) -> Examples:
    """The items of a dataset as a head sees them."""
    features = head_features(head, part, cache, on_progress=on_progress)
    return Examples(features, part.targets(), tuple(str(item.path) for item in part.items))


def untrained_head(recipe: Recipe, dataset: Dataset, encoder: Encoder) -> Head:
    """Build the head of a recipe for the classes of a dataset, with the recipe's seed."""
    seed = (recipe.training or find_head(recipe.head).defaults).seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return build_head(recipe.head, len(dataset.classes), FeatureShapes.of(encoder), **recipe.options)
        except ValueError as error:
            raise TrainError(str(error)) from error
        except TypeError as error:  # an option is unknown, or not of the type that the head computes with
            given = ", ".join(f"{name}={value!r}" for name, value in recipe.options.items())[:200]
            advice = f"`mlclip heads {recipe.head}` lists its options, and their values"
            raise TrainError(f"the head {recipe.head} does not take {given}: {advice}") from error
