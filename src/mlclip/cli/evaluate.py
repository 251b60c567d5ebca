"""`mlclip eval`: figures of a run."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlclip.cli.options import CacheOption, RunArgument, RunDataOption, run_data
from mlclip.console import console, metrics_table, progress, say
from mlclip.encoders import DEFAULT_CACHE
from mlclip.errors import CheckpointError
from mlclip.files import check_output

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mlclip.checkpoint import Run


def evaluate(
    run: RunArgument,
    data: RunDataOption = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    per_class: Annotated[bool, typer.Option("--per-class", help="Also print the metrics of each class.")] = False,
    roc: Annotated[
        Path | None, typer.Option(help="CSV file to write: points of the ROC curves of all pairs and of each class.")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option("--reliability", help="Picture to write (.png, .svg, .pdf): how often labels are true, by score."),
    ] = None,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Compute the metrics of a run on a split, print them, and store them in the run's metrics.json.

    An image that is a reference of the run is left out of its own answer. Figures of other data than the run's own are
    stored there under `other`, by the data's digest.
    """
    if roc is not None:
        check_output(roc, data or (), (".csv",), "--roc")
    if picture is not None:
        check_output(picture, data or (), (".png", ".svg", ".pdf"), "--reliability")
    from mlclip.calibration import class_reliability, reliability
    from mlclip.checkpoint import locked_run, write_json
    from mlclip.console import class_table
    from mlclip.encoders.features import FeatureCache
    from mlclip.metrics import evaluate as measure
    from mlclip.promises import promise_lines
    from mlclip.training.runs import figures, split_scores

    with locked_run(run) as loaded:
        dataset = run_data(loaded.training, data)
        store = FeatureCache(loaded.encoder.load(), cache)
        with progress("encoding images") as on_features:
            targets, scores = split_scores(loaded, dataset, store, split, on_features=on_features)
        metrics = measure(targets, scores, loaded.thresholds, classes=loaded.labels)
        found = figures(metrics, dataset.with_classes(loaded.labels)) | reliability(targets, scores)
        console.print(metrics_table({f"{run.name}, {split}": found}))
        for row, own in zip(found["per_class"], class_reliability(targets, scores), strict=True):
            row |= own
        if per_class:
            console.print(class_table(found))
        if picture is not None:
            from mlclip.cli.reliability import draw_reliability

            draw_reliability(picture, targets, scores, loaded.labels)
            say(f"wrote {picture}")
        if roc is not None:
            _write_roc(roc, targets, scores, loaded.labels)
        for line in [*promise_lines(loaded.training.get("promise")), *loaded.head.caveats(targets, split)]:
            say(line)
        try:
            write_json(run / "metrics.json", _stored(loaded, split, found, data))
        except OSError as error:
            raise CheckpointError(f"{run / 'metrics.json'}: the figures are not stored: {error.strerror}") from error
        say(f"stored in {run / 'metrics.json'}")


def _stored(run: Run, split: str, found: dict[str, Any], data: list[str] | None) -> dict[str, Any]:
    """A run's metrics with new figures, under the split for the run's own data, otherwise apart."""
    digest = found["data_sha256"]
    if data is None or digest == run.training.get("data_sha256"):
        return run.metrics | {split: found}
    other = run.metrics.get("other", {})
    return run.metrics | {"other": other | {digest: other.get(digest, {}) | {"data": data, split: found}}}


def _write_roc(
    path: Path, targets: npt.NDArray[np.uint8], scores: npt.NDArray[np.float32], labels: tuple[str, ...]
) -> None:
    """Write the points of each curve; that of all pairs has no label, and a class with one kind of image no curve."""
    from sklearn.metrics import roc_curve  # type: ignore[import-untyped]

    from mlclip.data.text_files import write_text

    curves = {"": slice(None)} | {label: slice(n, n + 1) for n, label in enumerate(labels)}
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("label", "threshold", "false_positive_rate", "true_positive_rate"))
    for label, columns in curves.items():
        truth = targets[:, columns].ravel()
        if truth.any() and not truth.all():
            false, true, thresholds = roc_curve(truth, scores[:, columns].ravel())
            writer.writerows(zip([label] * len(true), thresholds, false, true, strict=True))
    write_text(path, [text.getvalue()])
    say(f"wrote {path}")
