"""`mlclip train --extend RUN`: add classes to a trained head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlclip.cli.options import dataset, recorded, with_settings
from mlclip.console import console, metrics_table, progress, say
from mlclip.files import check_output

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
    target = out or folder.with_name(f"{folder.name}-extended")
    check_output(target, data)
    from mlclip.checkpoint import load_run, save_run
    from mlclip.encoders.features import FeatureCache
    from mlclip.training.extend import extend_run, run_settings

    run = load_run(folder)
    training = with_settings(run_settings(run), settings) if settings else None
    store = FeatureCache(run.encoder.load(), cache)
    with progress("encoding images") as on_features:
        extension = extend_run(
            run, dataset(data, top), store, training=training, thresholds=thresholds,
            on_features=on_features, on_epoch=lambda epoch: console.print(epoch.line()),
        )  # fmt: skip
    sources = {"data": recorded(data), "top": None}
    grown = replace(extension.run, training=extension.run.training | sources | {"extended_from": str(folder)})
    console.print(metrics_table({f"{target.name}, val": grown.metrics["val"]}))
    say(extension.line())
    save_run(target, grown)
    say(f"wrote {target}")
