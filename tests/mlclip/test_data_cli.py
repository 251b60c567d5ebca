"""`mlclip data prepare|pairs|shots|stats`: what a person types, what is written, what is asked."""

import csv
import json
import os
import re
import shutil
from importlib import import_module

import numpy as np
import pytest
from typer.testing import CliRunner

from mlclip.cli import app
from mlclip.cli.data_pairs import side_by_side
from mlclip.data import read_dataset
from mlclip.errors import DataError, OutputError


@pytest.fixture
def manifest(pictures, tmp_path):
    """90 pictures, each of the first 20 with a copy under another label, and one picture without a label."""
    paths, labels = pictures
    rows = [
        {"path": str(path), "labels": list(names), "group": path.stem}
        for path, names in zip(paths, labels, strict=True)
    ]
    for n in range(20):
        copy = tmp_path / "copies" / f"copy{n}.png"
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(paths[n], copy)
        rows.append({"path": str(copy), "labels": ["copied"], "group": paths[n].stem})
    rows[50]["labels"] = []
    for row in rows:
        row["split"] = ("train", "val", "test")[int(row["group"]) % 3]
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def run(encoder_folder, tmp_path, monkeypatch):
    """Calls a `mlclip data` command in a folder of its own, with the small encoder."""
    monkeypatch.chdir(tmp_path)

    def call(command, *arguments, encoder=True, **options):
        extra = ["--encoder", str(encoder_folder), "--cache", str(tmp_path / "features")] if encoder else []
        return CliRunner().invoke(app, ["data", command, *map(str, arguments), *extra], **options)

    return call


def test_prepare_writes_the_data_its_log_and_the_summary(manifest, run, tmp_path):
    result = run("prepare", "--data", manifest, "--duplicates", "0.9999", "0.9999999", "--min-count", 2)
    assert result.exit_code == 0, result.output
    dataset = read_dataset(tmp_path / "prepared.jsonl")
    changes = [json.loads(line) for line in (tmp_path / "prepared.changes.jsonl").read_text().splitlines()]
    dropped = [change for change in changes if change["action"] == "dropped"]
    assert len(dataset) + len(dropped) == 110
    assert f"{len(dataset)} images are left" in result.output
    assert "110 images came in" in result.output
    assert "dropped: 1 images, no label" in result.output
    assert {"train", "val", "test"} == set(dataset.split_counts)
    copies = [change for change in dropped if "copy" in change["what"]]
    assert len(copies) == 20


class Embeddings:
    """In the place of a features cache: random rows, and for a copy a row next to that of its picture."""

    def rows(self, paths, *, on_progress=None):
        return np.stack([self.row(path.stem) for path in paths]).astype(np.float32)

    def row(self, stem):
        near = 0.2 * stem.startswith("copy")
        random = np.random.default_rng(int(stem.removeprefix("copy")))
        return random.normal(size=64) + near * random.normal(size=64)


def test_prepare_takes_thresholds_from_labelled_pairs(manifest, run, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("mlclip.cli.data"), "feature_cache", lambda *_: Embeddings())
    paths, _ = pictures
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "same"])
        for n in range(10):
            writer.writerow([paths[n], tmp_path / f"copies/copy{n}.png", "y"])
            writer.writerow([paths[n], paths[n + 30], "n"])
    result = run("prepare", "--data", manifest, "--pairs", "pairs.csv", "--stratify", "labels", "--min-count", 1)
    assert result.exit_code == 0, result.output
    assert not any(item.path.stem.startswith("copy") for item in read_dataset(tmp_path / "prepared.jsonl").items)
    said = run("pairs", "--data", manifest, "--answers", "pairs.csv", "--no-ask")
    assert said.exit_code == 0, said.output
    assert said.output.strip() in result.output


def test_the_log_of_prepare_is_no_input_and_lies_beside_no_device(manifest, run, tmp_path):
    before = shutil.copy(manifest, tmp_path / "own.changes.jsonl").read_bytes()
    limits = ("--duplicates", "0.9999", "0.9999999", "--min-count", 2)
    refused = run("prepare", "--data", tmp_path / "own.changes.jsonl", "--out", "own.jsonl", *limits)
    assert isinstance(refused.exception, OutputError) and "own.changes.jsonl is an input" in str(refused.exception)
    assert (tmp_path / "own.changes.jsonl").read_bytes() == before
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDWR)
    result = run("prepare", "--data", manifest, "--out", "pipe", *limits)
    assert result.exit_code == 0 and result.output.endswith("wrote pipe\n"), result.output
    assert os.read(reader, 2**16).count(b"\n") == int(re.search(r"(\d+) images are left", result.output)[1])
    os.close(reader)
    assert not (tmp_path / "pipe.changes.jsonl").exists()


def test_prepare_refuses_what_makes_no_sense(manifest, run):
    both = run("prepare", "--data", manifest, "--duplicates", "0.9", "0.95", "--pairs", "pairs.csv")
    assert isinstance(both.exception, DataError) and "--duplicates or --pairs" in str(both.exception)
    neither = run("prepare", "--data", manifest, "--stratify", "size")
    assert isinstance(neither.exception, DataError) and "similarity or labels, not size" in str(neither.exception)


def test_pairs_shows_asks_stores_and_goes_on_where_it_was(manifest, run, tmp_path):
    first = run("pairs", "--data", manifest, input="y\nn\nmaybe\ny\nq\n")
    assert first.exit_code == 0, first.output
    assert first.output.count("the same picture?") == 5
    stored = (tmp_path / "pairs.csv").read_text().splitlines()
    assert stored[0] == "a,b,same" and [line[-1] for line in stored[1:]] == ["y", "n", "y"]
    assert "suspected duplicates from" in first.output
    second = run("pairs", "--data", manifest, input="n\nq\n")
    again = (tmp_path / "pairs.csv").read_text().splitlines()
    assert second.exit_code == 0, second.output
    assert again[:4] == stored and len(set(again)) == 5


def test_a_pair_is_shown_in_coloured_blocks(pictures):
    text = side_by_side(pictures[0][0], pictures[0][1])
    lines = text.plain.splitlines()
    assert len(lines) == 20 and all(line == "▀" * 82 for line in lines)
    assert len({str(span.style) for span in text.spans}) > 10


def test_shots_keeps_few_training_images_a_class(manifest, run, tmp_path):
    result = run("shots", "--data", manifest, "--k", 3, encoder=False)
    assert result.exit_code == 0, result.output
    before, few = read_dataset(manifest), read_dataset(tmp_path / "3-shot.jsonl")
    assert few.split_counts["train"] < before.split_counts["train"]
    assert few.split_counts["test"] == before.split_counts["test"]
    assert all(few.label_counts()[name] >= min(3, count) for name, count in before.label_counts().items())
    assert f"{len(few)} images: train" in result.output


def test_stats_counts_labels_and_images(tmp_path, run):
    rows = [("train", "a"), ("train", "ab"), ("val", "b"), ("test", "b"), ("test", ""), (None, "abc")]
    lines = [{"path": f"{n}.png", "labels": list(labels)} | ({"split": split} if split else {})
             for n, (split, labels) in enumerate(rows)]  # fmt: skip
    (tmp_path / "few.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = run("stats", "--data", tmp_path / "few.jsonl", encoder=False)
    assert result.exit_code == 0, result.output
    told = [line.split() for line in result.output.splitlines()]
    assert [line for line in told if line[:1] in (["label"], ["a"], ["b"], ["c"])] == [
        ["label", "images", "train", "val", "test", "none"],
        ["b", "4", "1", "1", "1", "1"],
        ["a", "3", "2", "0", "0", "1"],
        ["c", "1", "0", "0", "0", "1"],
    ]
    for words in (
        "6 images: train 2, val 1, test 2, none 1",
        "images per label: 1 to 4, mean 2.67, quartiles 2, 3, 3.5; labels on one image only: 1",
        "labels per image: 1 to 3, mean 1.60, quartiles 1, 1, 2; images without a label: 1",
        "images by the number of their labels: 3 with 1, 1 with 2, 1 with 3",
    ):
        assert words in result.output, words
