import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from mlclip_bench.heads import figures
from mlclip_bench.heads.comparison import intervals
from mlclip_bench.heads.derive import Derived, derive
from mlclip_bench.heads.figures import classes_figure, draw_figures
from mlclip_bench.heads.metrics import cell
from mlclip_bench.heads.report import report, summary, verdict
from mlclip_bench.heads.results import Results, TestScores
from mlclip_bench.heads.run import _columns
from mlclip_bench.heads.tables import differences_table
from PIL import Image

from mlclip.metrics import evaluate

LABELS = ["$x$ & y", "猫", "a_b", "plain"]


def compared(**estimates):
    """Methods whose differences have a standard deviation of 1 point."""
    rng = np.random.default_rng(0)
    samples = rng.normal(scale=0.01 / np.sqrt(2), size=(len(estimates), 2000))
    return intervals(tuple(estimates), np.array(list(estimates.values())), samples)


def test_a_best_method_is_named_only_where_it_is_apart_from_all_others():
    told = verdict("mean_average_precision", compared(a=0.50, b=0.51, c=0.40))
    assert "no method is best; b (51.0), a (50.0) cannot be told apart. Behind: c." in told
    told = verdict("f1_micro", compared(a=0.50, b=0.60, c=0.40))
    assert re.search(r"micro F1.*: b \(60.0\) is ahead of all others; of a \(50.0\) by 10.0 \(7.\d to 12.\d\)", told)
    assert "only a (50.0) was measured" in verdict("f1_micro", compared(a=0.5))


@pytest.mark.parametrize(
    ("title", "values", "expected"),
    [
        ("mAP", [0.5], "50.0"),
        ("mAP", [0.4, 0.6], "50.0 ± 14.1"),
        ("MSE", [0.02, 0.04], "0.0300 ± 0.0141"),
        ("P@5", [None], "-"),
    ],
)
def test_a_cell_is_mean_and_sample_deviation(title, values, expected):
    assert cell(title, values) == expected


def line(variant, outcome, targets, shots=None, seed=0):
    figures = _columns(evaluate(targets, outcome.scores, outcome.thresholds).to_dict())
    return {
        "variant": variant, "shots": shots, "seed": seed, "recipe": None, "study": "heads", "labels": LABELS,
        "data": {"sources": {"own.jsonl": "0"}, "digest": "d" * 64, "top": None, "images": {"train": 9, "test": 60},
                 "classes": 4, "label_sets": 3, "unseen_sets": 2},
        "encoder": {"tag": "small", "fingerprint": "f"}, "val": figures, "test": figures,
        "cpu_seconds": 2.0, "wall_seconds": 1.0, "epochs": 7, "head": {"label_sets": 3, "alpha": 0.125, "list": [1]},
        "commit": "abc", "machine": "one", "time": "2020-01-02T03:04:05", "versions": {"mlclip": "1"},
    }  # fmt: skip


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr("mlclip_bench.heads.derive.RESAMPLES", 200)
    rng = np.random.default_rng(0)
    results = Results(tmp_path / "own")
    targets = (rng.random((60, 4)) < 0.3).astype(np.uint8)
    results.save_targets(targets)
    for shots in (None, 2):
        for variant, signal in (("strong", 0.9), ("twin", 0.9), ("weak", 0.1), ("label frequency", 0.0)):
            for seed in range(1 + (variant in ("strong", "weak"))):
                noise = np.random.default_rng(seed).random(targets.shape) if signal else np.full(targets.shape, 0.5)
                scores = (signal * targets + (1 - signal) * noise).astype(np.float32)
                outcome = TestScores(scores, np.full(4, 0.5, np.float32))
                results.add_run(line(variant, outcome, targets, shots, seed), outcome)
    return results


@pytest.fixture
def derived(results) -> Derived:
    return derive(results)


def test_the_report_marks_what_cannot_be_told_apart(derived):
    rows = [row for row in report(derived, "own").splitlines() if row.startswith("| ")]
    marked = {row.split("|")[1].strip() for row in rows if "●" in row.split("|")[1]}
    assert marked == {"● strong", "● twin"}
    assert derived.comparisons[None]["mean_average_precision"].leading[-1] != "weak"


def test_the_report_tells_what_an_analyst_needs(derived, results):
    text = report(derived, "own")
    for words in (
        "# Methods: own",
        "4 labels; images: 9 to train, 0 to validate, 60 to test; encoder `small`",
        "over 2 seeds",
        "Prevalence",
        "3 sets of labels; 2 test images",
        "Whether the encoder has seen these images before is not stated",
        "| mAP | 2 | all |",
        "* strong, first seed: label sets 3, alpha 0.125",
        "Commit abc; one; 2020-01-02;",
        "`label frequency` scores every image alike",
    ):
        assert words in text, words
    results.save_note("It saw *none* of them.")
    assert "\n\nIt saw *none* of them.\n\n" in report(derive(results), "own")
    assert summary(derived).count("\n| ") == 6 and "no method is best" in summary(derived)


def test_every_method_stands_against_the_best_and_against_logistic_regression(derived):
    compared = dict(derived.comparisons[None])
    methods = ("strong", "weak", "logistic regression")
    samples = np.random.default_rng(0).normal([[0.9], [0.5], [0.6]], 0.01, (3, 500))
    compared["mean_average_precision"] = intervals(methods, np.array([0.9, 0.5, 0.6]), samples)
    rows = differences_table(replace(derived, comparisons={None: compared})).splitlines()
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in rows}
    assert cells[""][-1] == "mAP above logistic regression"
    assert cells["strong"][0] == "-" and cells["strong"][-1].startswith("30.0 (")
    assert cells["weak"][0].startswith("40.0 (") and cells["weak"][-1].startswith("-10.0 (")


def test_every_picture_that_the_report_shows_is_drawn(derived, results):
    drawn = {file.name: file for file in draw_figures(derived, results.folder)}
    shown = set(re.findall(r"\]\((\S+\.png)\)", report(derived, "own")))
    assert shown == {name for name in drawn if name.endswith(".png")}
    for name in shown:
        pixels = np.asarray(Image.open(drawn[name]).convert("L"))
        assert pixels.shape[0] > 100 and len(np.unique(pixels)) > 10, name


def test_pictures_are_the_same_whenever_they_are_drawn(derived, results):
    few = replace(derived, runs={None: derived.runs[None]}, curves={})
    svg = [file for file in draw_figures(few, results.folder) if file.suffix == ".svg"]
    before = [file.read_bytes() for file in svg]
    draw_figures(few, results.folder)
    assert [file.read_bytes() for file in svg] == before


def words(figure: Figure):
    return {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def test_labels_stand_beside_their_test_pictures_and_figures(derived):
    drawn = words(classes_figure(derived.runs[None]))
    positives = derived.runs[None]["strong"][0]["test"]["per_class"]["positives"]
    assert {f"{label}  {count}" for label, count in zip(LABELS, positives, strict=True)} <= drawn
    mean = np.mean([run["test"]["per_class"]["roc_auc"][3] for run in derived.runs[None]["weak"]])
    assert f"{100 * mean:.0f}" in drawn
    assert "label frequency" not in drawn, "always at chance"


def test_many_labels_become_sorted_curves(derived, monkeypatch):
    monkeypatch.setattr(figures, "ROWS_IN_A_TABLE", 3)
    figure = classes_figure(derived.runs[None])
    curve = figure.axes[0].lines[-1].get_ydata()
    of_class = [run["test"]["per_class"]["roc_auc"] for run in derived.runs[None]["strong"]]
    np.testing.assert_allclose(curve, np.sort(100 * np.mean(of_class, axis=0)))


def test_curves_are_precision_at_the_threshold_that_first_reaches_a_recall(derived, results):
    outcome = results.scores(derived.runs[None]["twin"][0])
    truth, scores = results.targets().ravel() > 0, outcome.scores.ravel()
    for position, recall in ((0, 0.0), (30, 0.30), (77, 0.77), (100, 1.0)):
        for threshold in sorted(set(scores), reverse=True):
            selected = scores >= threshold
            if (selected & truth).sum() / truth.sum() >= recall - 1e-9:
                break
        assert derived.curves["twin"][position] == pytest.approx((selected & truth).sum() / selected.sum(), abs=1e-5)


def test_a_curve_of_equal_scores_is_prevalence_throughout(derived, results):
    np.testing.assert_allclose(derived.curves["label frequency"], results.targets().mean(), atol=1e-5)
