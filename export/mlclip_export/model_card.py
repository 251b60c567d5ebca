"""A run's model card: what it knows, how well, what it promises, and what it is for."""

from __future__ import annotations

from typing import Any

from scipy.stats import binomtest  # type: ignore[import-untyped]

from mlclip.checkpoint import VERSION, Run
from mlclip.promises import promise_lines

LICENCES = {"mlclip-lite": "Apache-2.0"}
"""Of encoders whose licence is known here."""
_USE = """\
Meant for: ranking and sorting images like those of the training data, with a person who checks what matters. Not meant
for: decisions about people without such a check, or images of another kind. A label that is not selected is no proof
that its subject is not in the image."""

_LABELS = """\
On validation images, with 95 % intervals (Wilson 1927). Thresholds were chosen on the same images, so expect a little
less elsewhere, and other precision where labels are rarer or more common."""


def model_card(name: str, run: Run) -> str:
    """The card in Markdown, with the metadata that model hubs read."""
    licence = LICENCES.get(run.encoder.tag, "")
    metadata = {
        "library_name": "mlclip",
        "pipeline_tag": "image-classification",
        "tags": "[clip, multi-label, onnx]",
        "license": licence.lower() or "other",
    }
    encoder = f"`{run.encoder.name}`{f' ({run.encoder.pretrained})' if run.encoder.pretrained else ''}"
    rights = f"licence {licence}" if licence else "look up its licence before you share these files"
    blocks = [
        "\n".join(["---", *(f"{key}: {value}" for key, value in metadata.items()), "---"]),
        f"# {name}",
        f"A multi-label classifier: the head `{run.head_name}` on the frozen encoder {encoder} (fingerprint "
        f"{run.encoder.fingerprint}; {rights}). Made by mlclip {VERSION}.",
        "## Intended use",
        _USE,
        "## Data and training",
        _training(run),
        *_figures(run),
        "## Labels",
        _LABELS,
        _labels(run),
    ]
    return "\n\n".join(blocks) + "\n"


def _training(run: Run) -> str:
    record = run.training
    known = {
        "hash of the data": record.get("data_sha256"),
        "loss": record.get("loss"),
        "epochs": record.get("epochs_run"),
        "seed": record.get("seed"),
        "calibrated": "yes" if run.calibration is not None else "no: scores rank, they are not probabilities",
    }
    lines = [f"* {what}: {value}" for what, value in known.items() if value is not None]
    return "\n".join([*lines, *(f"* {line}" for line in promise_lines(record.get("promise")))])


def _figures(run: Run) -> list[str]:
    """A table for every data set that was evaluated, split by split."""
    blocks = []
    for split, found in run.metrics.items():
        if isinstance(found, dict) and "mean_average_precision" in found:
            rates = {f"{average} {rate}": found[average][rate] for average in ("micro", "macro") for rate in _RATES}
            rows = {"mAP": found["mean_average_precision"], **rates}
            table = [f"| {what} | {100 * value:.1f} % |" for what, value in rows.items() if value is not None]
            title = f"## Figures: {split}, {found['images']:,} images"
            blocks += [title, "\n".join(["| | |", "| --- | ---: |", *table])]
    return blocks


_RATES = ("precision", "recall", "f1")


def _labels(run: Run) -> str:
    measured: dict[str, dict[str, Any]] = {row["label"]: row for row in run.metrics.get("val", {}).get("per_class", ())}

    def cells(label: str, threshold: float) -> list[str]:
        row = measured.get(label, {})
        rates = (_rate(row.get(rate), row.get(of)) for rate, of in (("precision", "selected"), ("recall", "positives")))
        return [label.replace("|", "\\|"), f"{threshold:.3f}", str(row.get("positives", "-")), *rates]

    header = ["| label | threshold | validation images | precision | recall |", "| --- | ---: | ---: | ---: | ---: |"]
    rows = (cells(label, threshold) for label, threshold in zip(run.labels, run.thresholds, strict=True))
    return "\n".join([*header, *(f"| {' | '.join(row)} |" for row in rows)])


def _rate(value: float | None, of: int | None) -> str:
    """A share of so many images, in percent, with its interval."""
    if value is None or not of:
        return "-"
    low, high = binomtest(round(value * of), of).proportion_ci(method="wilson")
    return f"{100 * value:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
