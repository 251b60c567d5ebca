"""Planted label errors are found, listed for a person, and corrected by what the person decides."""

import builtins
import csv
import os
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from mlclip.audit import apply_sheet, audit, write_sheet
from mlclip.audit.doubts import MISSING, WRONG, Doubt, by_label, find_doubts
from mlclip.audit.folds import Opinions, assign_folds, calibrated, opinions
from mlclip.cli import app
from mlclip.data import Dataset, Item, read_dataset, write_manifest
from mlclip.errors import DataError, MlclipError, TrainError
from mlclip.settings import Recipe, TrainConfig

CLASSES = ("blue", "green", "red", "white")
HEADS = (Recipe("sigmoid", {}, TrainConfig(lr=0.02, epochs=30)), Recipe("neighbors", {"max_neighbors": 8}))


@pytest.fixture
def dataset(pictures):
    return Dataset(tuple(Item(path, names) for path, names in zip(*pictures, strict=True)), CLASSES)


def with_errors(dataset, removed, added, seed=0):
    """A dataset with so many labels taken off and put on; each planted error as (row, class)."""
    random, targets = np.random.default_rng(seed), dataset.targets().astype(bool)
    off = random.permutation(np.argwhere(targets))[:removed]
    on = random.permutation(np.argwhere(~targets))[:added]
    for row, n in (*off, *on):
        targets[row, n] ^= True
    items = tuple(
        replace(item, labels=tuple(np.array(CLASSES)[row])) for item, row in zip(dataset.items, targets, strict=True)
    )
    return replace(dataset, items=items), {(int(row), int(n)) for row, n in (*off, *on)}


def test_planted_errors_are_at_the_top_of_the_list(dataset, encoder, cache):
    noisy, planted = with_errors(dataset, removed=8, added=8)
    done = []
    found = audit(noisy, encoder, cache, HEADS, on_training=lambda *counts: done.append(counts))
    top = [(doubt.row, doubt.label) for doubt in found.doubts[:16]]
    assert len(planted & set(top)) >= 12, "16 of 360 at random hold less than one"
    kinds = [doubt.kind for doubt in found.doubts[:16]]
    assert kinds.count(MISSING) >= 6 and kinds.count(WRONG) >= 6
    assert (found.suggested == dataset.targets().astype(bool)).mean() > 0.9
    assert done == [(n, 10) for n in range(1, 11)]


def test_images_are_scored_by_heads_that_have_not_seen_them(dataset, encoder, cache):
    """A one-neighbour search that had seen an image would repeat its labels, whatever they are."""
    random = np.random.default_rng(0)
    items = tuple(replace(item, labels=(str(random.choice(CLASSES)),)) for item in dataset.items)
    noise = replace(dataset, items=items)
    heard = opinions(noise, encoder, cache, [Recipe("knn1")], folds=3)
    repeated = heard.probabilities[0].argmax(axis=1) == noise.targets().argmax(axis=1)
    assert repeated.mean() < 0.5, "it would be 1"


def test_what_belongs_together_is_in_one_fold(dataset):
    items = tuple(replace(item, group=f"g{row // 3}") for row, item in enumerate(dataset.items))
    fold_of = assign_folds(replace(dataset, items=items), 5, seed=1)
    assert (fold_of.reshape(-1, 3) == fold_of[::3, None]).all()
    shares = [dataset.targets()[fold_of == fold].mean(axis=0) for fold in range(5)]
    assert np.ptp(shares, axis=0).max() < 0.3 and np.bincount(fold_of).min() >= 12
    assert not np.array_equal(fold_of, assign_folds(replace(dataset, items=items), 5, seed=2))


def test_calibration_turns_scores_of_any_scale_into_probabilities():
    random = np.random.default_rng(0)
    truth = random.random((4000, 3))
    targets = (random.random(truth.shape) < truth).astype(np.uint8)
    odds = truth / (1 - truth)
    squeezed = (0.01 * odds**0.3 / (1 + 0.01 * odds**0.3)).astype(np.float32)  # logits shrunk and shifted
    assert np.abs(calibrated(squeezed, squeezed, targets) - truth).mean() < 0.02
    assert np.isfinite(calibrated(np.array([[0, 1, 0.5]], dtype=np.float32), squeezed, targets)).all()


def test_doubts_say_what_the_heads_say():
    random = np.random.default_rng(0)
    targets = (random.random((200, 3)) < 0.4).astype(np.uint8)
    first = np.where(targets == 1, 0.9, 0.1) + random.uniform(-0.05, 0.05, targets.shape)
    first[0], targets[0] = (0.95, 0.1, 0.1), (0, 0, 1)
    second = first.copy()
    second[0, 2] = 0.3
    heard = Opinions(np.stack([first, second]), np.stack([first >= 0.25, second >= 0.25]))
    missing, wrong = find_doubts(targets, heard)[:2]
    assert (missing.row, missing.label, missing.kind) == (0, 0, MISSING)
    assert missing.score == pytest.approx(0.95) and missing.probability == pytest.approx(0.95)
    assert missing.agreement == 1
    assert (wrong.row, wrong.label, wrong.kind) == (0, 2, WRONG)
    assert wrong.score == pytest.approx(0.8) and wrong.probability == pytest.approx(0.2)
    assert wrong.agreement == 0.5
    assert len(find_doubts(targets, heard)) == 2 and missing.image_score == wrong.image_score > 0.7
    labels = by_label(targets, [replace(missing, suspected=True), replace(wrong, suspected=True)])
    assert {(label.label, label.missing, label.wrong) for label in labels} == {(0, 1, 0), (2, 0, 1), (1, 0, 0)}
    assert labels[-1].label == 1 and labels[0].images == targets[:, labels[0].label].sum()


def test_classes_that_all_or_no_image_has_do_not_disturb():
    random = np.random.default_rng(1)
    targets = (random.random((60, 4)) < 0.3).astype(np.uint8)
    targets[5], targets[:, 1], targets[:, 2] = 0, 0, 1
    probabilities = random.uniform(0.01, 0.99, (1, 60, 4))
    doubts = find_doubts(targets, Opinions(probabilities, probabilities > 0.5))
    assert {doubt.label for doubt in doubts} >= {0, 3}


def decided(path, *changes):
    """Fill in the first lines, as a person does: a decision each, or several columns."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    for line, change in zip(lines, changes, strict=False):
        line.update(change if isinstance(change, dict) else {"decision": change})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)
    return lines


def test_a_list_goes_out_and_decisions_come_back(dataset, encoder, cache, tmp_path):
    noisy, planted = with_errors(dataset, removed=8, added=8)
    found = audit(noisy, encoder, cache, HEADS[:1], folds=3)
    sheet = tmp_path / "lists" / "audit.csv"
    write_sheet(sheet, noisy, found.doubts[:20], found.suggested)
    lines = decided(sheet, "keep")
    assert len(lines) == 20
    assert all((sheet.parent / line["path"]).samefile(dataset.items[d.row].path)
               for line, d in zip(lines, found.doubts, strict=False))  # fmt: skip
    assert lines[0]["label"] == CLASSES[found.doubts[0].label]
    assert lines[0]["given"] == "|".join(noisy.items[found.doubts[0].row].labels)
    page = sheet.with_suffix(".html").read_text()
    assert page.count("<img") == 20 and lines[3]["path"] in page
    same = apply_sheet(sheet, noisy)
    assert (same.added, same.removed, same.kept, same.undecided) == (0, 0, 1, 19)
    assert same.dataset == noisy
    right = [("add" if line["kind"] == MISSING else "remove") if (d.row, d.label) in planted else "keep"
             for line, d in zip(lines, found.doubts, strict=False)]  # fmt: skip
    decided(sheet, *right)
    corrected = apply_sheet(sheet, noisy)
    assert corrected.added + corrected.removed == sum(decision != "keep" for decision in right) > 8
    truth = dataset.targets()
    repaired = (noisy.targets() != truth).sum() - (corrected.dataset.targets() != truth).sum()
    assert repaired == corrected.added + corrected.removed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decision": "delete"}, "audit.csv:2: the decision is keep, add, remove or empty, not 'delete'"),
        ({"decision": "add", "label": "violet"}, "audit.csv:2: the data has no label 'violet'"),
        ({"decision": "add", "path": "x.png"}, "audit.csv:2: the data has no image x.png"),
    ],
)
def test_decisions_that_make_no_sense_are_named_by_line(change, message, dataset, tmp_path):
    heard = Opinions(np.full((1, 90, 4), 0.5), np.ones((1, 90, 4), dtype=bool))
    doubts = find_doubts(dataset.targets(), Opinions(1 - dataset.targets()[None] * 0.98 - 0.01, heard.selected))
    write_sheet(tmp_path / "audit.csv", dataset, doubts[:3], heard.selected[0])
    decided(tmp_path / "audit.csv", change)
    with pytest.raises(DataError, match=message):
        apply_sheet(tmp_path / "audit.csv", dataset)


def test_a_list_names_files_whose_names_are_not_utf8(dataset, tmp_path):
    items = (replace(dataset.items[0], path=tmp_path / os.fsdecode(b"\xff.png")), *dataset.items[1:])
    doubt = Doubt(0, 0, MISSING, 0.9, 0.9, 1.0, True, 0.5)
    write_sheet(tmp_path / "a.csv", replace(dataset, items=items), [doubt], np.zeros((90, 4), np.bool_))
    assert 'src="%FF.png"' in (tmp_path / "a.html").read_text()
    assert "\n\\udcff.png," in (tmp_path / "a.csv").read_text()


def test_what_is_no_list_is_refused(dataset, tmp_path):
    (tmp_path / "a.csv").write_text("path,label\nx,y\n")
    with pytest.raises(DataError, match="must name the columns path, label and decision"):
        apply_sheet(tmp_path / "a.csv", dataset)
    with pytest.raises(DataError, match="cannot be read"):
        apply_sheet(tmp_path / "none.csv", dataset)


def test_without_cleanlab_the_pip_command_is_named_before_anything_is_trained(dataset, encoder, cache, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("cleanlab"):
            raise ImportError("No module named 'cleanlab'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TrainError, match=r"pip install 'mlclip\[audit\]'"):
        audit(dataset, encoder, cache, HEADS, on_training=lambda *counts: pytest.fail("trained"))


def test_too_few_images_or_folds_are_refused(dataset, encoder, cache):
    with pytest.raises(TrainError, match="at least 3 folds"):
        audit(dataset, encoder, cache, HEADS, folds=2)
    same = replace(dataset, items=tuple(replace(item, labels=CLASSES) for item in dataset.items))
    with pytest.raises(DataError, match="has no image without a label"):
        audit(same, encoder, cache, HEADS[1:])
    with pytest.raises(DataError, match="too few images for 7 folds: 6 in 6 groups"):
        audit(replace(dataset, items=dataset.items[:6]), encoder, cache, HEADS, folds=7)


def test_the_command_lists_and_applies(dataset, encoder_folder, tmp_path):
    noisy, _ = with_errors(dataset, removed=8, added=8)
    write_manifest(noisy, tmp_path / "in.jsonl")
    command = ["data", "audit", "--data", str(tmp_path / "in.jsonl"), "--encoder", str(encoder_folder)]
    command += ["--cache", str(tmp_path / "features"), "--heads", "neighbors", "--folds", "3", "--limit", "6"]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "audit.csv")], catch_exceptions=False)
    assert result.exit_code == 0 and f"the labels of {len(noisy.labelled())} images" in result.output
    lines = decided(tmp_path / "audit.csv", "add", "remove")
    assert len(lines) == 6 and [line["kind"] for line in lines[:2]] == [MISSING, WRONG]
    more = ["--apply", str(tmp_path / "audit.csv"), "--out", str(tmp_path / "out.jsonl")]
    result = CliRunner().invoke(app, [*command, *more], catch_exceptions=False)
    assert "1 labels added, 1 removed, 0 kept, 4 undecided" in result.output
    assert (read_dataset(str(tmp_path / "out.jsonl")).targets() != noisy.targets()).sum() == 2
    for wrong, message in ((["--heads", "nose"], "unknown head 'nose'"), (["--out", "audit.txt"], "audit.csv")):
        with pytest.raises(MlclipError, match=message):
            CliRunner().invoke(app, [*command, *wrong], catch_exceptions=False)
