"""A head as one ONNX file, used as the tools that read taggers use it."""

import csv
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from mlclip_client.pixels import to_pixels
from mlclip_export import cli
from mlclip_export.model_card import model_card
from mlclip_export.tagger import export_tagger
from PIL import Image

from mlclip.checkpoint import save_run
from mlclip.errors import ExportError
from mlclip.heads.base import first_output
from mlclip.training.runs import run_scores


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def probabilities(folder, image):
    """What a tool does: pad to a white square, resize, BGR, one image at a time; the size is the model's."""
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    _, height, width, channels = given.shape
    assert channels == 3 and given.type == "tensor(float)"
    square = Image.new("RGB", (max(image.size),) * 2, (255, 255, 255))
    square.paste(image, tuple((side - own) // 2 for side, own in zip(square.size, image.size, strict=True)))
    pixels = np.asarray(square.resize((width, height), Image.Resampling.BICUBIC), np.float32)[:, :, ::-1]
    return session.run([output.name], {given.name: pixels[None]})[0][0]


@pytest.mark.parametrize(("head", "is_calibrated"), [("sigmoid", True), ("mld", False)])
def test_a_tagger_gives_the_scores_of_its_run(head, is_calibrated, make_encoder, make_run, tmp_path):
    encoder = make_encoder("square", resize_mode="longest", fill_color=255)
    maps = np.float32([np.linspace(0.5, 2, 7), np.linspace(-1, 1, 7)])
    run = replace(make_run(encoder, head), calibration=maps if is_calibrated else None)
    export_tagger("animals", run, tmp_path / "out", encoder)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md", "model.onnx", "selected_tags.csv", "thresholds.csv"
    }  # fmt: skip
    rows = table(tmp_path / "out" / "selected_tags.csv")
    assert [row["name"] for row in rows] == list(run.labels) and {row["category"] for row in rows} == {"0"}
    assert np.array_equal(np.float32([row["best_threshold"] for row in rows]), run.thresholds)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    path = tmp_path / "image.png"
    image.save(path)
    pixels = torch.from_numpy(np.stack([to_pixels(path.read_bytes(), encoder.spec)]))
    with torch.no_grad():
        features = dict(zip(("embedding", "tokens"), encoder(pixels), strict=True))
        expected = run_scores(run, first_output(run.head, [features[name] for name in run.head.inputs]).numpy())[0]
    np.testing.assert_allclose(probabilities(tmp_path / "out", image), expected, atol=1e-5)


def test_heads_that_one_file_cannot_hold_are_refused(encoder, make_run, tmp_path):
    run = make_run(encoder, "neighbors", index="hnsw")
    with pytest.raises(ExportError, match="searches an index"):
        export_tagger("found", run, tmp_path / "out", encoder)
    assert not (tmp_path / "out").exists()


def test_the_command_writes_taggers_and_cards(monkeypatch, capsys, encoder, make_run, tmp_path):
    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["mlclip-export", "--runs", str(tmp_path / "runs"), *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, " ".join(capsys.readouterr().err.split())

    monkeypatch.chdir(tmp_path)
    save_run(tmp_path / "runs" / "one", make_run(encoder))
    assert command("--as", "tagger")[0] == 0
    assert (tmp_path / "taggers" / "one" / "model.onnx").is_file() and not (tmp_path / "model_repository").exists()
    assert command("--card")[0] == 0
    card = (tmp_path / "model_repository" / "one_card.md").read_text()
    assert card == (tmp_path / "taggers" / "one" / "README.md").read_text()
    code, said = command("--as", "tagger", "--precision", "int8")
    assert code == 2 and "--precision belongs to a repository" in said


def test_a_card_says_what_was_measured_and_promised(encoder, make_run):
    run = make_run(encoder, classes=2, labels=("a|b", "c"))
    classes = [
        {"label": "a|b", "positives": 20, "selected": 10, "precision": 0.9, "recall": 0.45},
        {"label": "c", "positives": 0, "selected": 0, "precision": None, "recall": None},
    ]
    rates = {"precision": 0.9, "recall": 0.45, "f1": 0.6}
    run.metrics["val"] = {
        "images": 100, "mean_average_precision": 0.8125, "micro": rates, "macro": rates, "per_class": classes
    }  # fmt: skip
    promised = {"a|b": None, "c": "0 positives, 29 needed"}
    run.training["promise"] = {"figure": "precision", "level": 0.8, "confidence": 0.9, "classes": promised}
    card = model_card("things", run)
    for line in (
        "library_name: mlclip",
        "| mAP | 81.2 % |",
        "| a\\|b | 0.300 | 20 | 90 % (60 to 98) | 45 % (26 to 66) |",  # the intervals of R's binom::binom.wilson
        "| c | 0.700 | 0 | - | - |",
        "* cannot be promised: c (0 positives, 29 needed)",
        "* calibrated: no: scores rank, they are not probabilities",
    ):
        assert line in card, line
