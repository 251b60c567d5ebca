"""Metrics against formulas written out pair by pair."""

import json
import math

import numpy as np
import pytest

from mlclip.metrics import evaluate, mean_average_precision


def random_case(seed, rows=80, classes=7):
    random = np.random.default_rng(seed)
    targets = (random.random((rows, classes)) < 0.3).astype(np.uint8)
    targets[0] = 1
    targets[1] = 0
    scores = np.round(random.random((rows, classes)), 2).astype(np.float32)
    thresholds = random.random(classes).astype(np.float32)
    return targets, scores, thresholds


def counted(truth, selected):
    hits = sum(1 for t, s in zip(truth, selected, strict=True) if t and s)
    precision = hits / sum(selected) if sum(selected) else 0.0
    recall = hits / sum(truth) if sum(truth) else 0.0

    false = len(truth) - sum(truth)
    wrong = sum(selected) - hits

    def f(beta):
        below = beta**2 * precision + recall
        return (1 + beta**2) * precision * recall / below if below else 0.0

    return precision, recall, f(1), f(2), (false - wrong) / false if false else 0.0


def own_average_precision(truth, scores):
    """Sum over distinct scores of precision times the step in recall."""
    total, recall = 0.0, 0.0
    for cut in sorted(set(scores), reverse=True):
        precision, reached, *_ = counted(list(truth), [score >= cut for score in scores])
        total += precision * (reached - recall)
        recall = reached
    return total


def own_roc_auc(truth, scores):
    wins = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in scores[truth.astype(bool)]
        for n in scores[~truth.astype(bool)]
    ]
    return float(np.mean(wins))


def rates(average):
    return average.precision, average.recall, average.f1, average.f2, average.specificity


@pytest.mark.parametrize("seed", range(5))
def test_micro_and_macro_follow_the_formulas(seed):
    targets, scores, thresholds = random_case(seed)
    selected = scores >= thresholds
    result = evaluate(targets, scores, thresholds)
    columns = [counted(list(targets[:, n]), list(selected[:, n])) for n in range(targets.shape[1])]
    assert rates(result.micro) == pytest.approx(counted(list(targets.ravel()), list(selected.ravel())))
    assert rates(result.macro) == pytest.approx(np.mean(columns, axis=0))
    assert rates(result.weighted) == pytest.approx(np.average(columns, axis=0, weights=targets.sum(axis=0)))
    for entry, column in zip(result.per_class, columns, strict=True):
        assert rates(entry) == pytest.approx(column)


@pytest.mark.parametrize("seed", range(5))
def test_rankings_follow_the_formulas(seed):
    targets, scores, thresholds = random_case(seed)
    result = evaluate(targets, scores, thresholds)
    precisions = [own_average_precision(targets[:, n], scores[:, n]) for n in range(targets.shape[1])]
    areas = [own_roc_auc(targets[:, n], scores[:, n]) for n in range(targets.shape[1])]
    assert [entry.average_precision for entry in result.per_class] == pytest.approx(precisions)
    assert result.mean_average_precision == pytest.approx(np.mean(precisions))
    assert mean_average_precision(targets, scores) == result.mean_average_precision
    assert [entry.roc_auc for entry in result.per_class] == pytest.approx(areas)
    assert result.roc_auc_macro == pytest.approx(np.mean(areas))
    assert result.roc_auc_micro == pytest.approx(own_roc_auc(targets.ravel(), scores.ravel()))


def test_decisions_and_errors_follow_the_formulas():
    targets, scores, thresholds = random_case(1)
    selected = scores >= thresholds
    result = evaluate(targets, scores, thresholds)
    rows, classes = targets.shape
    pairs = [(r, n) for r in range(rows) for n in range(classes)]
    assert result.accuracy == pytest.approx(sum(selected[p] == targets[p] for p in pairs) / len(pairs))
    assert result.mse == pytest.approx(math.fsum((float(scores[p]) - targets[p]) ** 2 for p in pairs) / len(pairs))
    assert result.subset_accuracy == sum(list(selected[r]) == list(targets[r]) for r in range(rows)) / rows
    assert result.prevalence == sum(targets[p] for p in pairs) / len(pairs)
    assert (result.images, result.classes) == (rows, classes)


def test_precision_and_ndcg_at_k_by_hand():
    targets = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    scores = np.array([[0.9, 0.8, 0.7, 0.1], [0.9, 0.8, 0.1, 0.2], [0.4, 0.3, 0.2, 0.1]])
    result = evaluate(targets, scores, ks=(1, 3, 9))
    assert result.precision_at == pytest.approx({1: (1 + 0 + 0) / 3, 3: (2 / 3 + 1 / 3 + 0) / 3})
    gain = 1 / np.log2(np.arange(2, 5))
    expected = ((gain[0] + gain[2]) / (gain[0] + gain[1]) + gain[1] / gain[0]) / 2
    assert result.ndcg_at == pytest.approx({1: 0.5, 3: expected})


def test_equal_scores_rank_by_class_order():
    targets = np.array([[0, 1, 0, 0]])
    assert evaluate(targets, np.full((1, 4), 0.5), ks=(1, 2)).precision_at == {1: 0.0, 2: 0.5}


def test_a_class_without_positives_is_counted_and_left_out_of_macro_figures():
    targets = np.array([[1, 0], [0, 0], [1, 0]])
    scores = np.array([[0.9, 0.9], [0.2, 0.1], [0.8, 0.3]])
    result = evaluate(targets, scores)
    assert result.classes_without_positives == 1
    assert result.mean_average_precision == 1.0
    assert rates(result.macro) == rates(result.weighted) == (1.0, 1.0, 1.0, 1.0, 1.0)
    assert result.micro.precision == pytest.approx(2 / 3)
    assert result.per_class[1].average_precision is None
    assert result.per_class[1].roc_auc is None
    assert result.per_class[1].selected == 1


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 3)])
def test_all_true_or_all_false_gives_figures_or_none_without_a_warning(value, shape):
    result = evaluate(np.full(shape, value), np.full(shape, 0.7))
    assert result.mean_average_precision == (1.0 if value else None)
    assert result.roc_auc_micro is None
    assert rates(result.micro) == ((1.0, 1.0, 1.0, 1.0, 0.0) if value else (0.0,) * 5)
    json.dumps(result.to_dict(), allow_nan=False)


def test_nothing_selected_has_precision_zero():
    targets, scores, _ = random_case(2)
    assert rates(evaluate(targets, scores, 2.0).micro) == (0.0, 0.0, 0.0, 0.0, 1.0)


def test_the_threshold_selects_as_it_does_in_float32():
    targets, score = np.array([[1]]), np.float32(0.1)
    assert evaluate(targets, np.array([[0.1]]), np.array([score])).micro.recall == 1.0  # 0.1 < float32(0.1)


def test_figures_survive_json_with_names_and_thresholds():
    targets, scores, thresholds = random_case(4, classes=3)
    result = evaluate(targets, scores, thresholds, classes=["a", "b", "c"])
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [entry["label"] for entry in plain["per_class"]] == ["a", "b", "c"]
    assert np.array([entry["threshold"] for entry in plain["per_class"]], dtype=np.float32).tolist() == (
        thresholds.tolist()
    )
    assert plain["precision_at"]["3"] == result.precision_at[3]
    assert plain["micro"]["f2"] == result.micro.f2


@pytest.mark.parametrize(
    ("targets", "scores", "options", "message"),
    [
        (np.ones((2, 2)), np.ones((2, 2), dtype=np.float16), {}, "float32 or float64, not float16"),
        (np.ones((1, 2)), np.array([[0.1, np.nan]]), {}, "NaN or infinity"),
        (np.ones((1, 2)), np.array([[0.1, np.inf]]), {}, "NaN or infinity"),
        (np.full((1, 2), 2), np.ones((1, 2)), {}, "must be 0 or 1"),
        (np.ones((2, 2)), np.ones((2, 3)), {}, r"\[2, 2\] and \[2, 3\]"),
        (np.ones((0, 2)), np.ones((0, 2)), {}, r"\[0, 2\]"),
        (np.ones((2, 2)), np.ones((2, 2)), {"thresholds": np.ones(3)}, r"one number or \[2\], not \[3\]"),
        (np.ones((2, 2)), np.ones((2, 2)), {"thresholds": np.array([0.5, np.nan])}, "tune them again"),
        (np.ones((2, 2)), np.ones((2, 2)), {"classes": ["a"]}, "2 classes but 1 names"),
    ],
)
def test_what_makes_no_sense_is_refused(targets, scores, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(targets, scores, **options)
