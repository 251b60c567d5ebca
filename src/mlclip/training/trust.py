"""What makes a run's labels fit to act on: calibrated probabilities, thresholds with a guarantee, novelty."""

from __future__ import annotations

from dataclasses import asdict, replace

from mlclip.calibration import cross_validated, fit_calibration, moved_thresholds, reliability
from mlclip.checkpoint import Run
from mlclip.data import Dataset
from mlclip.encoders.features import FeatureCache
from mlclip.novelty import fit_novelty
from mlclip.promises import Promise, keep_promises
from mlclip.training.runs import measured, run_cache, run_scores, split_scores


def calibrate_run(run: Run, dataset: Dataset, cache: FeatureCache) -> tuple[Run, str]:
    """Fit a calibration on the validation split, and say in a line what it changes; the run selects the same labels.

    It is kept where it improves both Brier score and log loss of images that it was not fitted to; otherwise the run
    has none. A calibrated run is compared and fitted from its head's own scores.
    """
    targets, outputs = split_scores(run, dataset, cache, "val", raw=True)
    kind, plain = run.head.outputs[0], replace(run, calibration=None)
    before = reliability(targets, run_scores(plain, outputs))
    after = reliability(targets, cross_validated(targets, outputs, kind))
    better = after["brier"] < before["brier"] and after["log_loss"] < before["log_loss"]
    maps = fit_calibration(targets, outputs, kind) if better else None
    fitted = replace(plain, calibration=maps, thresholds=moved_thresholds(run.thresholds, run.calibration, maps))
    names = {"brier": "Brier score", "log_loss": "log loss", "ece": "ECE"}
    changes = ", ".join(f"{name} {before[key]:.4f} to {after[key]:.4f}" for key, name in names.items())
    line = f"{'calibrated' if better else 'not calibrated, since it is no better'}: {changes} (cross-validated)"
    return measured(fitted, dataset, targets, run_scores(fitted, outputs)), line


def promise_run(run: Run, dataset: Dataset, cache: FeatureCache, promise: Promise) -> Run:
    """Choose thresholds that keep a promise on the validation split; classes that cannot keep it stay as they are."""
    targets, scores = split_scores(run, dataset, cache, "val")
    limits, reasons = keep_promises(targets, scores, run.thresholds, promise)
    record = asdict(promise) | {"classes": dict(zip(run.labels, reasons, strict=True))}
    return measured(replace(run, thresholds=limits), dataset, targets, scores, promise=record)


def measure_novelty(run: Run, dataset: Dataset, cache: FeatureCache) -> Run:
    """Fit the measure of novelty to the embeddings of training and validation images."""
    cache = run_cache(run, cache)
    train, validation = (
        cache.rows([item.path for item in dataset.split(name).items])[slice(None)] for name in ("train", "val")
    )
    return replace(run, novelty=fit_novelty(train, validation))
