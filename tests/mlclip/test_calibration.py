"""Calibration restores distorted probabilities, keeps every selection, and stays off where it does not help."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclip.calibration import (
    adjusted,
    calibrated,
    class_reliability,
    cross_validated,
    estimated_prevalence,
    fit_calibration,
    grown,
    moved_thresholds,
    reliability,
)
from mlclip.checkpoint import load_run, save_run
from mlclip.classifier import MultiLabelClassifier
from mlclip.errors import CheckpointError, DataError
from mlclip.settings import Recipe, ThresholdConfig
from mlclip.thresholds import select
from mlclip.training.extend import extend_run
from mlclip.training.references import append_references, remove_references
from mlclip.training.runs import retune_run, split_scores, train_run
from mlclip.training.trust import adjust_run, calibrate_run


def distorted(rows=4000, classes=3, seed=0):
    """Targets drawn with the chances of logits, and these logits after an affine map."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(-1, 2, (rows, classes))
    targets = draw.random((rows, classes)) < 1 / (1 + np.exp(-logits))
    return targets.astype(np.uint8), (3 * logits + 2).astype(np.float32)


def sigmoid(logits):
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


@pytest.mark.parametrize("kind", ["logits", "scores"])
def test_a_distortion_is_undone(kind):
    targets, logits = distorted()
    outputs = logits if kind == "logits" else sigmoid(logits)
    maps = fit_calibration(targets, outputs, kind)
    np.testing.assert_allclose(maps[0], 1 / 3, rtol=0.15)
    np.testing.assert_allclose(maps[1], -2 / 3, atol=0.25)
    fresh, shifted = distorted(seed=1)
    found = calibrated(shifted if kind == "logits" else sigmoid(shifted), kind, maps)
    before, after = reliability(fresh, sigmoid(shifted)), reliability(fresh, found)
    assert after["ece"] < 0.02 < 0.1 < before["ece"]
    assert after["brier"] < before["brier"] and after["log_loss"] < before["log_loss"]
    assert after["ece_low"] <= after["ece"] <= after["ece_high"] < before["ece_low"]


def test_classes_with_few_images_stay_near_the_map_of_all_and_others_have_their_own():
    targets, logits = distorted(rows=60, classes=12)
    maps = fit_calibration(targets, logits, "logits")
    assert np.abs(np.log(3 * maps[0])).max() < 0.5, "alone, some would be off by a factor of two"
    targets, logits = distorted(rows=2000, classes=4)
    logits[:, 3] = logits[:, 3] / 3 - 4
    maps = fit_calibration(targets, logits, "logits")
    np.testing.assert_allclose(maps[0] * [3, 3, 3, 1], 1, atol=0.15)


def test_perfect_scores_do_not_become_steps():
    targets = np.arange(40).reshape(20, 2) % 3 == 0
    maps = fit_calibration(targets, np.where(targets, 2, -2).astype(np.float32), "logits")
    assert (maps[0] < 10).all()


def test_ends_of_the_scale_have_finite_scores():
    maps = np.float32([[0.5], [0.1]])
    found = calibrated(np.float32([[0], [1], [0.5]]), "scores", maps)
    np.testing.assert_allclose(found[2], 1 / (1 + np.exp(-0.1)), rtol=1e-6)
    assert 0 < found[0] < found[2] < found[1] < 1


@pytest.mark.parametrize("kind", ["logits", "scores"])
def test_thresholds_move_with_the_scores(kind):
    _, logits = distorted(rows=200)
    outputs = logits if kind == "logits" else sigmoid(logits)
    first, second = np.float32([[0.3, 1, 2], [1, 0, -1]]), np.float32([[2, 0.5, 1], [0, 0.4, 3]])
    limits = np.float32([0.2, 0.9, 0.55])
    chosen = select(sigmoid(logits), limits)
    one = moved_thresholds(limits, None, first)
    two = moved_thresholds(one, first, second)
    back = moved_thresholds(two, second, None)
    for thresholds, scores in (
        (one, calibrated(outputs, kind, first)),
        (two, calibrated(outputs, kind, second)),
        (back, sigmoid(logits)),
    ):
        assert np.array_equal(select(scores, thresholds), chosen)
    np.testing.assert_allclose(back, limits, rtol=1e-4)


def test_each_image_is_held_out_of_its_own_calibration():
    """Targets of pure chance: a map that has seen them would look better than it is."""
    draw = np.random.default_rng(3)
    targets, logits = (draw.random((40, 30)) < 0.5).astype(np.uint8), draw.normal(size=(40, 30)).astype(np.float32)
    seen = reliability(targets, calibrated(logits, "logits", fit_calibration(targets, logits, "logits")))
    unseen = reliability(targets, cross_validated(targets, logits, "logits"))
    assert seen["log_loss"] < np.log(2) < unseen["log_loss"]


def test_prevalence_is_found_without_labels():
    """Logits of two normal classes, whose true posterior is known at any prevalence."""
    rng, before, after = np.random.default_rng(0), np.array([0.3, 0.3, 0.1]), np.array([0.05, 0.6, 0.1])
    truth = rng.random((20_000, 3)) < after
    evidence = rng.normal(np.where(truth, 2, -2), 2)  # the log likelihood ratio itself
    scores = sigmoid(evidence + np.log(before / (1 - before))).astype(np.float32)
    found = estimated_prevalence(scores, before)
    np.testing.assert_allclose(found, truth.mean(axis=0), atol=0.01)
    maps = adjusted(np.float32([[2, 2, 2], [1, 1, 1]]), before, found)
    np.testing.assert_array_equal(maps[0], 2)
    logits = (np.log(scores / (1 - scores)) - 1) / 2
    moved = calibrated(logits.astype(np.float32), "logits", maps)
    errors = [reliability(truth[:, :1], values[:, :1])["ece"] for values in (moved, scores)]
    assert errors[0] < 0.01 < 0.03 < errors[1]


def test_reliability_of_known_scores():
    targets = np.array([[1, 0], [0, 0], [1, 1], [1, 0]])
    exact = reliability(targets, targets.astype(np.float32))
    assert (exact["brier"], exact["ece"]) == (0, 0)
    assert exact["log_loss"] == pytest.approx(1e-6, rel=0.1)
    halves = reliability(targets, np.full((4, 2), 0.5, np.float32))
    assert (halves["brier"], halves["ece"], halves["log_loss"]) == pytest.approx((0.25, 0, np.log(2)))
    assert reliability(targets, np.full((4, 2), 0.9, np.float32))["ece"] == pytest.approx(0.4)


def test_reliability_of_a_class_is_that_of_its_column():
    targets, logits = distorted(300)
    for n, own in enumerate(class_reliability(targets, scores := sigmoid(logits))):
        column = reliability(targets[:, n : n + 1], scores[:, n : n + 1])
        assert own == pytest.approx({"brier": column["brier"], "ece": column["ece"]})


@pytest.fixture(scope="module", params=["sigmoid", "neighbornet"])
def run(request, dataset, encoder, cache):
    return train_run(dataset, encoder, cache, Recipe(request.param))


@pytest.fixture
def calibrated_run(run, dataset, cache):
    found, line = calibrate_run(run, dataset, cache)
    assert line.startswith("calibrated: Brier score 0."), line
    return found


def test_a_calibrated_run_selects_the_same_labels(run, calibrated_run, dataset, cache, tmp_path):
    save_run(tmp_path, calibrated_run)
    again = load_run(tmp_path)
    np.testing.assert_array_equal(again.calibration, calibrated_run.calibration)
    for split in ("val", "test"):
        (targets, before), (_, after) = (split_scores(one, dataset, cache, split) for one in (run, again))
        assert np.array_equal(select(before, run.thresholds), select(after, again.thresholds))
        assert reliability(targets, after)["log_loss"] < reliability(targets, before)["log_loss"]
    classifier = MultiLabelClassifier.load(tmp_path, cache.root)
    paths = [item.path for item in dataset.split("test").items]
    np.testing.assert_allclose(classifier.predict_proba(paths), after, atol=1e-6)
    save_run(tmp_path, run)
    assert load_run(tmp_path).calibration is None


def test_to_calibrate_again_changes_nothing(calibrated_run, dataset, cache):
    again, _ = calibrate_run(calibrated_run, dataset, cache)
    np.testing.assert_array_equal(again.calibration, calibrated_run.calibration)
    np.testing.assert_allclose(again.thresholds, calibrated_run.thresholds, rtol=1e-5)


def test_a_run_that_gains_nothing_stays_or_becomes_uncalibrated(run, calibrated_run, dataset, cache, monkeypatch):
    monkeypatch.setattr("mlclip.training.trust.cross_validated", lambda targets, outputs, kind: 1 - targets)
    found, line = calibrate_run(calibrated_run, dataset, cache)
    assert line.startswith("not calibrated, since it is no better: Brier score 0.")
    assert found.calibration is None
    np.testing.assert_allclose(found.thresholds, run.thresholds, rtol=1e-4)


def test_new_classes_get_the_median_map(dataset, encoder, cache):
    known = train_run(dataset.with_classes(("blue", "green", "red")), encoder, cache, Recipe("sigmoid"))
    maps = np.float32([[1, 2, 3], [0, 0.5, 2]])
    known = replace(known, calibration=maps, training=known.training | {"promise": {}})
    grown_run = extend_run(known, dataset, cache).run
    np.testing.assert_array_equal(grown_run.calibration, [[1, 2, 3, 2], [0, 0.5, 2, 0.5]])
    assert "promise" not in grown_run.training
    assert grown(None, 3) is None


def test_references_come_and_go_with_their_maps(dataset, encoder, cache):
    known = train_run(dataset.with_classes(("blue", "green", "red")), encoder, cache, Recipe("neighbors"))
    more = replace(
        dataset,
        items=tuple(replace(item, split=None) for item in dataset.split("test").items if "white" in item.labels),
    )
    run = append_references(replace(known, calibration=np.float32([[1, 2, 3], [0, 1, 2]])), more, cache)
    np.testing.assert_array_equal(run.calibration, [[1, 2, 3, 2], [0, 1, 2, 1]])
    fewer = remove_references(run, [str(item.path) for item in more.items], drop_labels=True)
    np.testing.assert_array_equal(fewer.calibration, [[1, 2, 3], [0, 1, 2]])


def rows_of(path, run, scores, labels=None, column="all_scores"):
    """A Parquet file as the client writes it for a head called `mine`, with one failed image."""
    answers = [{"mine": {column: row.tolist()}} for row in scores]
    table = pa.table({"path": [*map(str, range(len(answers))), "bad"], "answers": [*answers, None]})
    heads = {"mine": {"labels": list(labels or run.labels)}, "other": {"labels": ["x"]}}
    pq.write_table(table.replace_schema_metadata({"mlclip_heads": json.dumps(heads)}), path)
    return path


def test_a_run_is_adjusted_to_a_crawl(calibrated_run, dataset, cache, tmp_path, mlclip):
    _, scores = split_scores(calibrated_run, dataset, cache, "test")
    calibrated_run.training["promise"] = {}
    crawl = scores[scores[:, 0] < np.median(scores[:, 0])]  # its first label is rarer
    rows = rows_of(tmp_path / "labels.parquet", calibrated_run, crawl)
    moved, line = adjust_run(calibrated_run, rows, dataset)
    assert f"estimated for {len(crawl):,} images" in line and "promise" not in moved.training
    _, after = split_scores(moved, dataset, cache, "test")
    assert np.array_equal(select(scores, calibrated_run.thresholds), select(after, moved.thresholds))
    assert after[:, 0].mean() < 0.9 * scores[:, 0].mean()
    found = estimated_prevalence(crawl, dataset.split("val").targets().mean(axis=0))
    np.testing.assert_allclose(list(moved.training["prevalence"].values()), found, atol=1e-6)
    with pytest.raises(CheckpointError, match="already adjusted"):
        adjust_run(moved, rows, dataset)
    again, _ = calibrate_run(moved, dataset, cache)
    np.testing.assert_allclose(again.calibration, calibrated_run.calibration, rtol=1e-4)
    assert "prevalence" not in again.training and "prevalence" in moved.training
    save_run(tmp_path / "run", calibrated_run)
    assert mlclip("tune", tmp_path / "run", "--prevalence", rows, "--calibrate")[0] == 2


def test_rows_that_do_not_fit_are_refused(calibrated_run, dataset, tmp_path):
    scores = np.full((3, 4), 0.5, np.float32)
    with pytest.raises(DataError, match="0 heads have the labels of this run"):
        adjust_run(calibrated_run, rows_of(tmp_path / "a.parquet", calibrated_run, scores, "abcd"), dataset)
    with pytest.raises(DataError, match="classify with --scores"):
        adjust_run(calibrated_run, rows_of(tmp_path / "b.parquet", calibrated_run, scores, column="scores"), dataset)
    (tmp_path / "c.parquet").write_text("no rows")
    with pytest.raises(DataError, match="not a Parquet file"):
        adjust_run(calibrated_run, tmp_path / "c.parquet", dataset)
    with pytest.raises(CheckpointError, match="not calibrated"):
        adjust_run(replace(calibrated_run, calibration=None), tmp_path / "c.parquet", dataset)


def test_new_thresholds_are_chosen_on_calibrated_scores(calibrated_run, dataset, cache):
    tuned = retune_run(calibrated_run, dataset, cache, ThresholdConfig("global"))
    _, scores = split_scores(calibrated_run, dataset, cache, "val")
    assert scores.min() <= tuned.thresholds[0] <= scores.max()
    np.testing.assert_array_equal(tuned.calibration, calibrated_run.calibration)
