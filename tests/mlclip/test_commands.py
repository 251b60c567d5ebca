"""`mlclip`: what a person types about runs and data, and what is said about it in one line."""

import fcntl
import json
import os
from dataclasses import replace

import pytest

from mlclip.checkpoint import load_run, save_run
from mlclip.data import Dataset, read_dataset, write_manifest


@pytest.fixture
def typed(mlclip, encoder_folder, dataset, tmp_path, monkeypatch):
    """Run `mlclip` with the small encoder in a folder where data.jsonl is; gives exit code and both outputs."""
    monkeypatch.chdir(tmp_path)
    write_manifest(dataset, tmp_path / "data.jsonl")

    def run(*words):
        encoder = ["--encoder", encoder_folder] if words[0] == "train" else []
        return mlclip(*words, *encoder)

    return run


def train(typed, out, *more):
    return typed("train", "--data", "data.jsonl", "--head", "sigmoid", "--epochs", 2, "--out", out, *more)


def test_figures_are_kept_per_data_set(typed, dataset, tmp_path):
    train(typed, "run")
    typed("eval", "run")
    before = load_run(tmp_path / "run").metrics
    other = Dataset(dataset.items[:60], dataset.classes)
    write_manifest(other, tmp_path / "other.jsonl")
    code, told, _ = typed("eval", "run", "--data", "other.jsonl")
    assert code == 0 and "stored in run/metrics.json" in told
    typed("eval", "run", "--data", "other.jsonl", "--split", "val")
    after = load_run(tmp_path / "run").metrics
    assert {name: after[name] for name in before} == before
    found = after["other"][other.digest]
    assert found["data"] == ["other.jsonl"] and {"test", "val"} < found.keys()
    assert found["test"]["images"] == other.split_counts["test"] != before["test"]["images"]
    assert found["test"]["data_sha256"] == other.digest != before["test"]["data_sha256"] == dataset.digest
    (tmp_path / "data.jsonl").rename(tmp_path / "moved.jsonl")
    typed("eval", "run", "--data", "moved.jsonl")
    assert load_run(tmp_path / "run").metrics == after, "the run's own data under another name"
    assert "the data that this run was trained on: " in typed("eval", "run")[2]


def test_figures_that_cannot_be_stored_are_printed(typed, tmp_path, full_disk):
    train(typed, "run")
    typed("eval", "run")
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    with full_disk(1000):
        code, told, said = typed("eval", "run")
    assert code == 1 and "mAP (macro)" in told
    assert said.splitlines()[-1] == "error: run/metrics.json: the figures are not stored: File too large"
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before
    with full_disk(1000):
        code, told, said = train(typed, "run")
    assert code == 1 and "mAP (macro)" in told and said.splitlines()[-1].startswith("error: cannot write the run")
    assert load_run(tmp_path / "run").metrics == json.loads(before)


@pytest.mark.parametrize("words", [["eval", "run"], ["tune", "run", "--beta", 2], ["tune", "run", "--novelty"]])
def test_a_command_that_changes_a_run_waits_for_another_and_keeps_what_it_stores(words, typed, tmp_path, monkeypatch):
    train(typed, "run")
    folder, flock = tmp_path / "run", fcntl.flock

    def end_another(handle, how):
        """Get the lock, before which another command has stored something."""
        flock(handle, how)
        if os.path.samestat(os.fstat(handle if isinstance(handle, int) else handle.fileno()), folder.stat()):
            run = load_run(folder)
            save_run(folder, replace(run, training=run.training | {"another": 1}, metrics=run.metrics | {"other": {}}))

    monkeypatch.setattr(fcntl, "flock", end_another)
    code, _, said = typed(*words)
    run = load_run(folder)
    assert code == 0 and run.training["another"] == 1, said
    assert words[0] == "tune" or run.metrics.keys() > {"other", "test"}


def test_text_is_never_markup_and_other_bytes_are_escaped(typed, tmp_path):
    name = os.fsdecode(b"[misc] caf\xe9 [/misc] :cat:")
    code, told, said = train(typed, name)
    assert code == 0 and r"wrote [misc] caf\udce9 [/misc] :cat:" in told, said
    code, told, _ = typed("eval", name)
    assert code == 0 and "[/misc] :cat:/metrics.json" in told
    assert typed("eval", f"{name}/nope")[2].count("[/misc] :cat:/nope is no run folder") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "read", "data.jsonl", "--out", "data.jsonl"], "data.jsonl is an input and would be overwritten"),
        (["data", "read", ".", "--labels", "data.jsonl", "--out", "data.jsonl"], "is an input"),
        (["data", "read", "data.jsonl", "--out", "own.csv"], "written as .jsonl: name it --out own.jsonl"),
        (["data", "shots", "--data", "data.jsonl", "--k", "1", "--out", "data.jsonl"], "is an input"),
        (["data", "prepare", "--data", "data.jsonl", "--out", "own.parquet"], "name it --out own.jsonl"),
        (["data", "audit", "--data", "data.jsonl", "--apply", "a.csv", "--out", "data.jsonl"], "is an input"),
        (["data", "audit", "--data", "data.jsonl", "--out", "a.txt"], "name it --out a.csv"),
        (["train", "--data", "data.jsonl", "--out", "data.jsonl"], "is an input"),
        (["train", "--data", "data.jsonl", "--seed", "-1"], "seed is a whole number of at least 0, not -1"),
        (["train", "--data", "data.jsonl", "--seed", "4294967296"], "seed is a whole number below"),
        (["train", "--data", "data.jsonl", "--recipe", "001-asl", "--loss-option", "gamma=1"], "asl has no parameter"),
        (["train", "--data", "data.jsonl", "--loss-option", "gamma_neg=1"], "bce has no parameter 'gamma_neg'"),
        (["data", "shots", "--data", "data.jsonl", "--k", "1", "--seed", "-1"], "seed is a whole number"),
        (["eval", "data.jsonl"], "data.jsonl is no run folder"),
        (["eval", "run", "--data", "data.jsonl", "--roc", "data.jsonl"], "is an input and would be overwritten"),
        (["eval", "run", "--roc", "run/labels.txt"], "it is written as .csv: name it --roc run/labels.csv"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(words, message, typed, tmp_path):
    before = (tmp_path / "data.jsonl").read_bytes()
    code, _, said = typed(*words)
    assert code == 1 and message in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]
    assert (tmp_path / "data.jsonl").read_bytes() == before


def test_another_loss_than_a_recipes_comes_without_its_parameters(typed, tmp_path):
    code, _, said = typed("train", "--data", "data.jsonl", "--recipe", "001-asl", "--loss", "focal", "--epochs", 1)
    assert code == 0, said
    assert load_run(tmp_path / "runs" / "001-asl").training["loss_options"] == {}


def test_a_manifest_of_the_most_frequent_labels_keeps_the_other_images(typed, dataset, tmp_path):
    code, told, _ = typed("data", "read", "data.jsonl", "--top", 1, "--out", "top.jsonl")
    read = read_dataset(tmp_path / "top.jsonl")
    assert code == 0 and len(read) == len(dataset) and len(read.classes) == 1
    assert any(not item.labels for item in read.items)


def test_a_split_on_the_command_line_wins_and_may_be_the_only_one(typed, tmp_path):
    text = (tmp_path / "data.jsonl").read_text()
    for word in ("train", "val", "test"):
        text = text.replace(f'"split": "{word}"', '"split": "holdout"')
    (tmp_path / "held.jsonl").write_text(text)
    code, told, said = typed("data", "read", "test=held.jsonl", "--out", "test.jsonl")
    assert code == 0 and "90 images: test 90" in told, said
    assert typed("data", "read", "test.jsonl", "--out", "again.jsonl")[0] == 0


def test_errors_that_leave_too_few_images_are_named(typed, tmp_path):
    lines = (tmp_path / "data.jsonl").read_text().splitlines()[:4]
    (tmp_path / "few.jsonl").write_text("\n".join([*lines, "{"]).replace('"split": "', '"group": "'))
    code, _, said = typed("data", "read", "few.jsonl", "--out", "out.jsonl")
    assert code == 1 and "too few images" in said and "1 error, the first: few.jsonl:5: not JSON" in said
