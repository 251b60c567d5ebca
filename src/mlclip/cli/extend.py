"""`mlclip train --extend RUN`: add classes to a trained head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlclip.cli.options import dataset
from mlclip.console import console, metrics_table, progress, say
from mlclip.errors import TrainError

if TYPE_CHECKING:
    from mlclip.settings import ThresholdConfig


def extend(
    folder: Path,
    data: list[str],
    top: int | None,
    settings: dict[str, Any],
    thresholds: ThresholdConfig | None,
    cache: Path,
    out: Path | None,
) -> None:
    """Add the data's new classes to a run; write a new run folder, by default RUN-extended.

    Settings and thresholds that are not given are the run's.
    """
    from mlclip.checkpoint import load_run, save_run
    from mlclip.encoders.features import FeatureCache
    from mlclip.training.extend import extend_run, run_settings

    run = load_run(folder)
    try:
        training = replace(run_settings(run), **settings) if settings else None
    except ValueError as error:
        raise TrainError(str(error)) from error
    store = FeatureCache(run.encoder.load(), cache)
    with progress("encoding images") as on_features:
        extension = extend_run(
            run, dataset(data, top), store, training=training, thresholds=thresholds,
            on_features=on_features, on_epoch=lambda epoch: console.print(epoch.line()),
        )  # fmt: skip
    target = out or folder.with_name(f"{folder.name}-extended")
    sources = {"data": [str(Path(source)) for source in data], "top": None}
    grown = replace(extension.run, training=extension.run.training | sources | {"extended_from": str(folder)})
    save_run(target, grown)
    console.print(metrics_table({f"{target.name}, val": grown.metrics["val"]}))
    say(extension.line())
    say(f"wrote {target}")
