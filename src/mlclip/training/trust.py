"""What makes a run's labels fit to act on: calibrated probabilities, thresholds with a guarantee, novelty."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from mlclip.calibration import (
    adjusted,
    cross_validated,
    estimated_prevalence,
    fit_calibration,
    moved_thresholds,
    reliability,
)
from mlclip.checkpoint import Run
from mlclip.data import Dataset
from mlclip.encoders.features import FeatureCache
from mlclip.errors import CheckpointError, DataError
from mlclip.novelty import fit_novelty
from mlclip.promises import Promise, keep_promises
from mlclip.training.runs import measured, run_cache, run_scores, split_scores, unpromised, without_record


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
    thresholds = moved_thresholds(run.thresholds, run.calibration, maps)
    fitted = replace(without_record(plain, "prevalence"), calibration=maps, thresholds=thresholds)
    names = {"brier": "Brier score", "log_loss": "log loss", "ece": "ECE"}
    changes = ", ".join(f"{name} {before[key]:.4f} to {after[key]:.4f}" for key, name in names.items())
    line = f"{'calibrated' if better else 'not calibrated, since it is no better'}: {changes} (cross-validated)"
    return measured(fitted, dataset, targets, run_scores(fitted, outputs)), line


def adjust_run(run: Run, rows: Path, dataset: Dataset) -> tuple[Run, str]:
    """Adjust a calibrated run to how frequent labels are in a crawl, and say in a line what changes.

    The run selects the same labels; what its thresholds promised, at the prevalence of validation, is gone.

    Args:
        run: calibrated, and not adjusted since.
        rows: a Parquet file of the client's rows, with the scores that this run gave (`classify --scores`).
        dataset: holds the validation split that the run was calibrated on.

    Raises:
        CheckpointError: the run is not calibrated, or already adjusted.
        DataError: the rows cannot be read, or hold no scores of this run's labels.
    """
    if run.calibration is None or "prevalence" in run.training:
        state = "not calibrated" if run.calibration is None else "already adjusted"
        raise CheckpointError(f"the run is {state}: run `mlclip tune RUN --calibrate`, export it and classify first")
    before = dataset.with_classes(run.labels).split("val").targets().mean(axis=0)
    scores = _scores_in(rows, run.labels)
    after = estimated_prevalence(scores, before)
    maps = adjusted(run.calibration, before, after)
    found = dict(zip(run.labels, after.round(6).tolist(), strict=True))
    moved = replace(
        unpromised(run), calibration=maps, thresholds=moved_thresholds(run.thresholds, run.calibration, maps)
    )
    line = f"labels per image: {before.sum():.2f} in validation, {after.sum():.2f} estimated for {len(scores):,} images"
    return replace(moved, training=moved.training | {"prevalence": found}), line


def _scores_in(rows: Path, labels: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """The scores [R, N] of the head with these labels in a Parquet file of the client's rows."""
    try:
        table = pq.read_table(rows, columns=["answers"])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{rows}: not a Parquet file of the client's rows: {str(error).splitlines()[0]}") from error
    known = json.loads((table.schema.metadata or {}).get(b"mlclip_heads", "{}"))
    names = [name for name, classes in known.items() if tuple(classes["labels"]) == labels]
    if len(names) != 1:
        raise DataError(f"{rows}: {len(names)} heads have the labels of this run, not one")
    answers = pc.struct_field(table["answers"].combine_chunks(), names[0])
    has_all = answers.type.get_field_index("all_scores") >= 0
    kept = pc.struct_field(answers, "all_scores").drop_null() if has_all else None
    if not kept:
        raise DataError(f"{rows}: no scores of all classes: classify with --scores")
    return np.asarray(kept.flatten(), dtype=np.float32).reshape(-1, len(labels))


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
