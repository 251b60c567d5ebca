"""Thresholds of duplicates: the logistic points, where the answers come from, and when asking ends."""

import math
from pathlib import Path

import numpy as np
import pytest

from mlclip.data import Item
from mlclip.data.duplicate_pairs import (
    Pair,
    append_pair,
    ask_until_steady,
    fit_curve,
    group_answers,
    nearest_pairs,
    points_from_pairs,
    read_pairs,
)
from mlclip.errors import DataError


def labelled(count=200, middle=0.9, slope=60, seed=0):
    random = np.random.default_rng(seed)
    similarities = random.uniform(0.6, 1.0, size=count)
    return similarities, random.random(count) < 1 / (1 + np.exp(-slope * (similarities - middle)))


def logistic_by_newton(similarities, same):
    """The penalised logistic regression as a plain float64 loop: similarities of 1 % and 99 %."""
    count = len(similarities)
    centre = sum(similarities) / count
    spread = math.sqrt(sum((x - centre) ** 2 for x in similarities) / count)
    weight = bias = 0.0
    for _ in range(50):
        gradient, hessian = np.array([weight / 1e4, 0.0]), np.array([[1e-4, 0.0], [0.0, 0.0]])
        for x, y in zip(similarities, same, strict=True):
            z = (x - centre) / spread
            p = 1 / (1 + math.exp(-(weight * z + bias)))
            gradient += np.array([z, 1.0]) * (p - y)
            hessian += np.outer([z, 1.0], [z, 1.0]) * p * (1 - p)
        weight, bias = np.array([weight, bias]) - np.linalg.solve(hessian, gradient)
    return [centre + spread * (math.log(chance / (1 - chance)) - bias) / weight for chance in (0.01, 0.99)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_points_are_those_of_a_float64_loop(seed):
    similarities, same = labelled(seed=seed)
    points = fit_curve(similarities, same).points()
    assert points == pytest.approx(logistic_by_newton(similarities, same), abs=1e-5)
    assert points.suspected < 0.9 < points.certain


def test_pairs_that_one_similarity_parts_have_finite_points():
    suspected, certain = fit_curve([0.5, 0.6, 0.7, 0.93, 0.96, 0.99], [0, 0, 0, 1, 1, 1]).points()
    assert 0.7 < suspected < 0.815 < certain < 0.93


@pytest.mark.parametrize(
    "similarities, same, message",
    [
        ([0.5, 0.6], [False, False], "no duplicates among them"),
        ([0.5, 0.6], [True, True], "no other pairs among them"),
        ([0.5, 0.5], [True, False], "no unequal similarities"),
        ([0.5, 0.6, 0.9, 0.95], [True, True, False, False], "not more similar than the others"),
    ],
)
def test_pairs_that_tell_nothing_are_refused(similarities, same, message):
    with pytest.raises(DataError, match=message):
        fit_curve(similarities, same)


def test_groups_answer_for_images_that_have_one_and_no_pair_counts_twice():
    groups = ["a", "a", "b", None, "b", "c"]
    items = [Item(Path(f"{n}.jpg"), group=group) for n, group in enumerate(groups)]
    index = np.array([1, 0, 4, 2, 5, -1])
    similarities, same = group_answers(items, index, np.array([0.9, 0.9, 0.8, 0.7, 0.6, -np.inf]))
    assert similarities.tolist() == [0.9, 0.8, 0.6]
    assert same.tolist() == [True, True, False]


def test_nearest_pairs_are_ordered_and_unique():
    pairs, similarities = nearest_pairs(np.array([2, 0, 0, -1]), np.array([0.9, 0.4, 0.9, -np.inf]))
    assert pairs.tolist() == [[0, 1], [0, 2]]
    assert similarities.tolist() == [0.4, 0.9]


def test_asking_ends_when_the_points_stand_still_and_near_the_true_curve():
    candidates, truth = labelled(count=1000, slope=100)
    asked = []

    def ask(row, points):
        asked.append(row)
        return bool(truth[row])

    answers = ask_until_steady(candidates, {}, ask, tolerance=0.005)
    assert len(asked) == len(set(asked)) == len(answers) < 400
    points = fit_curve(candidates[list(answers)], list(answers.values())).points()
    assert points == pytest.approx([0.9 - math.log(99) / 100, 0.9 + math.log(99) / 100], abs=0.03)


def test_questions_lie_where_the_answer_is_uncertain():
    candidates = np.linspace(0.5, 1.0, 501)
    asked = []

    def ask(row, points):
        asked.append(candidates[row])
        return bool(candidates[row] > 0.85) if len(asked) < 40 else None

    ask_until_steady(candidates, {}, ask, tolerance=0)
    assert asked[:2] == [1.0, 0.5]
    assert np.abs(np.array(asked[12:]) - 0.85).max() < 0.05


def test_asking_starts_from_what_is_known_and_stops_on_request():
    candidates = np.array([0.5, 0.6, 0.9, 0.95])
    seen = []

    def ask(row, points):
        seen.append((row, points is not None))
        return None

    assert ask_until_steady(candidates, {0: False, 3: True}, ask) == {0: False, 3: True}
    assert seen[0][0] in (1, 2) and seen[0][1]


def test_asking_ends_when_every_pair_is_answered():
    candidates = np.array([0.5, 0.7, 0.9])
    assert ask_until_steady(candidates, {}, lambda row, points: False) == {0: False, 1: False, 2: False}


def test_answers_are_stored_relative_to_their_file_and_read_again(tmp_path):
    pairs = [
        Pair(tmp_path / "p" / "a.jpg", tmp_path / "b.jpg", True),
        Pair(tmp_path / "b.jpg", tmp_path / "c.jpg", False),
    ]
    (tmp_path / "answers").mkdir()
    for pair in pairs:
        append_pair(pair, tmp_path / "answers" / "pairs.csv")
    text = (tmp_path / "answers" / "pairs.csv").read_text()
    assert text.splitlines() == ["a,b,same", "../p/a.jpg,../b.jpg,y", "../b.jpg,../c.jpg,n"]
    again = read_pairs(tmp_path / "answers" / "pairs.csv")
    assert [(pair.a.resolve(), pair.b.resolve(), pair.same) for pair in again] == [(p.a, p.b, p.same) for p in pairs]


@pytest.mark.parametrize(
    "text, message",
    [
        ("x,y\n1,2\n", "the first line must name the columns a, b and same"),
        ("a,b,same,same\n1,2,y,n\n", ":1: two columns are called 'same': rename or remove one"),
        ("a,b,same\n1.jpg,2.jpg,maybe\n", ":2: give two image files and y or n, not '1.jpg', '2.jpg' and 'maybe'"),
        ("a,b,same\n1.jpg,,y\n", ":2: give two image files"),
        ("", "the first line must name"),
    ],
)
def test_a_broken_file_of_pairs_is_refused_by_line(tmp_path, text, message):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_pairs(tmp_path / "pairs.csv")


def test_the_thresholds_of_a_file_are_those_of_its_similarities(tmp_path):
    similarities, same = labelled(count=80)
    lines = [f"l{n}.jpg,r{n}.jpg,{'yes' if y else 'no'}" for n, y in enumerate(same)]
    (tmp_path / "pairs.csv").write_text("\n".join(["a,b,same", *lines]))

    def embed(paths):
        angle = [math.acos(similarities[int(path.stem[1:])]) if path.stem[0] == "r" else 0.0 for path in paths]
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32) * 3

    points = points_from_pairs(tmp_path / "pairs.csv", embed)
    assert points == pytest.approx(fit_curve(similarities, same).points(), abs=1e-4)
    (tmp_path / "pairs.csv").write_text("a,b,same\n")
    with pytest.raises(DataError, match="it holds no pair"):
        points_from_pairs(tmp_path / "pairs.csv", embed)
