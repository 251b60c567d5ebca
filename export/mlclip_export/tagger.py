"""One self-contained ONNX file, and the lists beside it, in the layout of public taggers.

The layout is that of SmilingWolf's WD taggers (https://huggingface.co/SmilingWolf/wd-swinv2-tagger-v3), which many
tools read: `model.onnx` takes BGR pixels and gives probabilities, `selected_tags.csv` names them in their order. The
column `best_threshold` and `thresholds.csv` are as dghs-imgutils reads them.
"""

import csv
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
import onnx.parser
import torch
from onnx import numpy_helper
from torch import Tensor

from mlclip.checkpoint import Run
from mlclip.encoders.clip import Encoder
from mlclip.errors import ExportError
from mlclip.files import replacing_files
from mlclip.heads.base import first_output
from mlclip.training.runs import run_scores
from mlclip_export.facts import reads_text
from mlclip_export.graphs import FILE, IR_VERSION, OPSET, threshold_input, write_encoder, write_head, write_threshold
from mlclip_export.model_card import model_card
from mlclip_export.parity import Case, compare, refuse_if_apart

FILES = (FILE, "selected_tags.csv", "thresholds.csv", "README.md")
CATEGORY = 0  # `general`, where tools look for labels
_HEADER = f'<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}], producer_name: "mlclip">'


def export_tagger(name: str, run: Run, folder: Path, encoder: Encoder | None = None, tolerance: float = 1e-4) -> None:
    """Write `model.onnx`, `selected_tags.csv`, `thresholds.csv` and the model card `README.md` into a folder.

    The model takes `input`, float32 [B, S, S, 3] in 0..255 with the channels BGR, and gives `output`, float32 [B, N]:
    the run's scores, calibrated if the run is. Tools pad images to a white square before they resize them.

    Raises:
        ExportError: the head reads texts or needs an index, or the graph differs from torch by more than `tolerance`.
        CheckpointError: the encoder has other weights than in training.
        OSError: the folder cannot be written.
    """
    if reads_text(run.head.inputs) or run.head.python_model() is not None:
        raise ExportError(f"the head {name} reads texts or searches an index, which one ONNX file cannot hold")
    encoder = encoder or run.encoder.load()
    with tempfile.TemporaryDirectory(prefix="mlclip-tagger-") as scratch:
        file = Path(scratch) / FILE
        model = _joined(run, encoder, Path(scratch))
        onnx.save(model, file)
        refuse_if_apart(compare(f"tagger {name}", file, [_case(run, encoder)]), tolerance)
        data = file.read_bytes()
    general = {"category": CATEGORY, "name": "general", "threshold": f"{np.median(run.thresholds):.6g}"}
    with replacing_files(folder, FILES) as files:
        (files / FILE).write_bytes(data)
        (files / "README.md").write_text(model_card(name, run), encoding="utf-8")
        _write_table(files / "selected_tags.csv", _tags(run))
        _write_table(files / "thresholds.csv", [general])  # for tools that take one threshold for all labels


def _joined(run: Run, encoder: Encoder, scratch: Path) -> onnx.ModelProto:
    """Pixels as tools give them, encoder, head and calibration, in one graph; the weights lie inside."""
    folders = {part: scratch / part for part in ("encoder", "head", "threshold")}
    for folder in folders.values():
        folder.mkdir()
    write_encoder(encoder, folders["encoder"])
    size = encoder.spec.size
    with torch.no_grad():
        features = _features(run, encoder, torch.zeros(2, size, size, 3))
    write_head(run.head, features, folders["head"])
    output = run.head.outputs[0]
    write_threshold(run.thresholds, output, folders["threshold"], run.calibration)
    parts = {part: onnx.load(folder / FILE) for part, folder in folders.items()}
    model = _front(size)
    for before, part, names in (
        ("front", "encoder", {"pixels": "pixels"}),
        ("encoder", "head", {feature: feature for feature in run.head.inputs}),
        ("head", "threshold", {output: threshold_input(output)}),
    ):
        following = onnx.compose.add_prefix(parts[part], f"{part}/")
        pairs = [(f"{before}/{given}", f"{part}/{taken}") for given, taken in names.items()]
        kept = ["threshold/scores"] if part == "threshold" else None
        model = onnx.compose.merge_models(model, following, pairs, outputs=kept)
    last = onnx.parser.parse_model(
        f"{_HEADER} last (float[batch, {len(run.labels)}] scores) => (float[batch, {len(run.labels)}] output)"
        "{ output = Identity(scores) }"
    )
    model = onnx.compose.merge_models(model, last, [("threshold/scores", "scores")])
    onnx.checker.check_model(model, full_check=True)
    return model


def _front(size: int) -> onnx.ModelProto:
    """Float BGR pixels to uint8 RGB, as the encoder's graph takes them; `size` is S."""
    pixels = f"[batch, {size}, {size}, 3]"
    front = onnx.parser.parse_model(
        f"""{_HEADER} front (float{pixels} input) => (uint8{pixels} "front/pixels") {{
            rgb = Gather <axis = 3> (input, order)
            whole = Round (rgb)
            inside = Clip (whole, least, most)
            "front/pixels" = Cast <to = 2> (inside)
        }}"""
    )
    for name, value in {"order": [2, 1, 0], "least": np.float32(0), "most": np.float32(255)}.items():
        front.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return front


def _features(run: Run, encoder: Encoder, pixels: Tensor) -> list[Tensor]:
    embedding, tokens = encoder(pixels)
    return [embedding if feature == "embedding" else tokens for feature in run.head.inputs]


@torch.no_grad()
def _case(run: Run, encoder: Encoder) -> Case:
    """Random pixels as tools give them, with the scores that torch computes."""
    size = encoder.spec.size
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3)).astype(np.float32)
    first = first_output(run.head, _features(run, encoder, torch.from_numpy(pixels)))
    return {"input": pixels[..., ::-1].copy()}, {"output": run_scores(run, first.numpy())}


def _tags(run: Run) -> Iterator[dict[str, Any]]:
    counts = {row["label"]: row["positives"] for row in run.metrics.get("val", {}).get("per_class", ())}
    for number, (label, threshold) in enumerate(zip(run.labels, run.thresholds, strict=True)):
        yield {
            "tag_id": number,
            "name": label,
            "category": CATEGORY,
            "count": counts.get(label, 0),  # of validation images
            "best_threshold": f"{threshold:.9g}",
        }


def _write_table(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    first, *others = rows
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(first))
        writer.writeheader()
        writer.writerows([first, *others])
