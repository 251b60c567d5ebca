"""Searches on small data: what is tried, when they stop, what is kept, and that nothing else is looked at."""

import gc
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mlclip.checkpoint import load_run, save_run
from mlclip.cli import app
from mlclip.data import write_manifest
from mlclip.errors import ResultsError, TrainError
from mlclip.heads import HEADS, Choice, Head, Range
from mlclip.metrics import mean_average_precision
from mlclip.settings import Recipe, ThresholdConfig, TrainConfig
from mlclip.training.loop import predict_scores
from mlclip.training.runs import evaluate_run, head_features, train_run, untrained_head
from mlclip.tune import Search, Study, Trial, tune_run
from mlclip.tune.bayes import optimise, propose, settled
from mlclip.tune.grid import try_all
from mlclip.tune.judge import Judgement, remembered
from mlclip.tune.ladder import climb, rungs
from mlclip.tune.space import apply, fold, parse_range, space_of, unfold

QUICK = TrainConfig(lr=0.02, epochs=8)


@pytest.fixture
def run(dataset, encoder, cache):
    return train_run(dataset, encoder, cache, Recipe("sigmoid", {"scale": 4.0}, QUICK))


def study_of(score, path, about=None, calls=None):
    """A study whose trials score what a function of the settings says."""

    def judge(settings):
        if calls is not None:
            calls.append(settings)
        return Judgement(score(settings), 0.5)

    return Study(path, {"search": "any"} | (about or {}), judge)


def test_bayes_finds_the_top_of_a_hill_and_stops_there(tmp_path):
    study = study_of(lambda s: 1 - np.log2(s["x"] / 7) ** 2 / 20, tmp_path / "t.jsonl")
    optimise(study, {"x": Range(1.0, 500.0, log=True)}, 60, seed=0)
    assert max(trial.score for trial in study.trials[:10]) < 0.999 < study.best.score
    assert 10 < len(study.trials) < 60 and settled(study.trials) and not settled(study.trials[:-1])


@pytest.mark.parametrize(
    ("scores", "stops"),
    [
        ([0.5] * 9, False),
        ([0.5] * 10, True),
        ([0.5, 0.4989] + [0.5] * 8, False),
        ([0.5, 0.4991] + [0.5] * 8 + [0.1] * 5, True),
    ],
)
def test_a_search_stops_when_the_ten_best_lie_within_a_tenth_of_a_point(scores, stops):
    assert settled([Trial(n, {}, score, 0.5, 0.0) for n, score in enumerate(scores)]) is stops


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path):
    space = {"x": Range(0.1, 10.0, log=True), "weights[0]": Range(0, 1), "weights[1]": Range(0, 1)}

    def score(s):
        return 0.5 - (np.log(s["x"]) ** 2 + (s["weights"][0] - 0.3) ** 2 + (s["weights"][1] - 0.6) ** 2) / 20

    whole, calls = tmp_path / "whole.jsonl", []
    optimise(study_of(score, whole), space, 14, seed=3)
    lines = whole.read_bytes().splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_bytes(b"".join(lines[:13]) + lines[13][:20])
    study = study_of(score, tmp_path / "cut.jsonl", calls=calls)
    assert len(study.trials) == 12
    optimise(study, space, 14, seed=3)
    assert len(calls) == 2
    stored = [study_of(score, path).trials for path in (whole, tmp_path / "cut.jsonl")]
    assert [replace(trial, seconds=0) for trial in stored[0]] == [replace(trial, seconds=0) for trial in stored[1]]
    assert len(stored[0]) == 14


def test_seeds_decide_where_a_search_starts():
    space = {"x": Range(0.0, 1.0)}
    assert propose(space, [], 1) == propose(space, [], 1) != propose(space, [], 2)


def test_values_of_any_kind_can_be_chosen_from(tmp_path):
    study = study_of(lambda s: 0.9 if s["widths"] == [2, 1] else 0.2, tmp_path / "t.jsonl")
    optimise(study, {"widths": Choice(([1], [2, 1], None)), "other": Choice((True, "x"))}, 12, seed=0)
    assert study.best.settings["widths"] == [2, 1] and len({str(t.settings["widths"]) for t in study.trials}) == 3


def test_a_finite_space_is_left_when_all_of_it_was_tried(tmp_path, monkeypatch):
    monkeypatch.setattr("mlclip.tune.bayes.settled", lambda trials: False)
    calls = []
    study = study_of(lambda s: s["k"] / 10, tmp_path / "t.jsonl", calls=calls)
    optimise(study, {"k": Choice((1, 2, 3))}, 200, seed=0)
    assert sorted(call["k"] for call in calls) == [1, 2, 3], "what is known is not measured again"
    assert study.best.settings == {"k": 3}


def test_a_grid_tries_every_combination_once(tmp_path):
    space = {"a": Choice((1, 2)), "b": Choice(("x", "y", None))}
    calls = []
    try_all(study_of(lambda s: s["a"] / 4, tmp_path / "t.jsonl", calls=calls), space, 100, seed=0)
    assert calls == [{"a": a, "b": b} for a in (1, 2) for b in ("x", "y", None)]
    calls.clear()
    try_all(study_of(lambda s: s["a"] / 4, tmp_path / "t.jsonl", calls=calls), space, 100, seed=0)
    assert calls == [], "all is in the file"
    try_all(study_of(lambda s: 0.1, tmp_path / "few.jsonl", calls=calls), space, 4, seed=0)
    assert len(calls) == 4 and calls[-1] != {"a": 2, "b": "x"}, "drawn from all over the grid"
    with pytest.raises(TrainError, match="lr are ranges"):
        try_all(study_of(lambda s: 0.1, tmp_path / "r.jsonl"), {"lr": Range(0, 1)}, 4, seed=0)


def test_the_ladder_moves_one_setting_after_the_other(tmp_path):
    wanted = {"gamma_neg": 3.0, "gamma_pos": 0.0, "alpha1": 1.4, "alpha2": 2.0, "beta1": 1.4}

    def score(s):
        assert s["training.loss"] == "apl"
        return 0.9 - sum(abs(s["training.loss_options"][name] - value) for name, value in wanted.items()) / 100

    recipe = Recipe("sigmoid", {}, QUICK)
    study = study_of(score, tmp_path / "t.jsonl")
    climb(study, recipe, 1000, unlabelled=True)
    assert study.best.settings["training.loss_options"] == wanted | {"shift": 0.05, "detach_focus": False}
    assert [trial.settings["training.loss_options"]["gamma_neg"] for trial in study.trials[:5]] == [4, 1, 2, 3, 5]
    moved = [{k for k, v in trial.settings["training.loss_options"].items() if v != 3.0} for trial in study.trials[5:]]
    assert all(len(m) for m in moved) and len(study.trials) == 5 + 1 + 9 + 4 + 3
    few = study_of(score, tmp_path / "few.jsonl")
    climb(few, recipe, 7, unlabelled=False)
    assert len(few.trials) == 7 and "detach_focus" not in few.best.settings["training.loss_options"]


def test_the_ladder_stays_where_it_is_when_nothing_is_better(tmp_path):
    study = study_of(lambda s: 0.5, tmp_path / "t.jsonl")
    recipe = Recipe("mld", {}, replace(QUICK, loss="asl"))
    climb(study, recipe, 1000, unlabelled=False)
    assert study.best.settings == {
        "training.loss": "asl",
        "training.loss_options": {"gamma_neg": 4.0, "gamma_pos": 0.0, "shift": 0.05},
    }
    assert len(study.trials) == 6, "asl has two rungs"
    assert "beta1" in rungs(recipe, unlabelled=True), "which asl has not"


def test_heads_that_are_not_trained_by_such_a_loss_have_no_ladder():
    with pytest.raises(TrainError, match="has its own or none"):
        rungs(Recipe("neighbors", {}, HEADS["neighbors"].defaults), unlabelled=False)


def test_lists_come_apart_and_together(run):
    class Weighted(Head):
        search = {"weights": Range(0, 100, each="contexts"), "training.lr": Range(1e-4, 1.0, log=True)}

    weighted = Weighted()
    weighted.config = {"contexts": ["a {}", "b {}"]}
    space = space_of(replace(run, head=weighted))
    assert space == {
        "weights[0]": Range(0, 100), "weights[1]": Range(0, 100), "training.lr": Range(1e-4, 1.0, log=True),
    }  # fmt: skip
    flat = {"weights[0]": 3.0, "weights[1]": 4.0, "training.lr": 0.1}
    assert fold(flat) == {"weights": [3.0, 4.0], "training.lr": 0.1}
    assert unfold(fold(flat), space) == flat


def test_settings_go_where_they_belong():
    recipe = Recipe("mld", {"groups": 4, "layers": 2}, TrainConfig(loss="apl", loss_options={"alpha1": 2.0}))
    changed = apply(
        recipe, {"groups": 8, "training.lr": 0.5, "training.loss_options.gamma_neg": 3, "weights": [1.0, 2.0]}
    )
    assert changed.options == {"groups": 8, "layers": 2, "weights": [1.0, 2.0]}
    assert changed.training == replace(recipe.training, lr=0.5, loss_options={"alpha1": 2.0, "gamma_neg": 3})
    assert recipe.options == {"groups": 4, "layers": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training.lr=1e-4:0.1:log", ("training.lr", Range(1e-4, 0.1, log=True))),
        ("max-neighbors=1:200", ("max_neighbors", Range(1, 200, integer=True))),
        ("temperature=1.0:200", ("temperature", Range(1.0, 200))),
        ("memory=tokens,pooled", ("memory", Choice(("tokens", "pooled")))),
        ("groups=8,16", ("groups", Choice((8, 16)))),
        ('contexts=["a {}, b", "c: {}"]', ("contexts", Choice(("a {}, b", "c: {}")))),
    ],
)
def test_what_is_varied_can_be_named(text, expected):
    assert parse_range(text) == expected


@pytest.mark.parametrize("text", ["lr", "=1:2", "lr=2:1", "lr=0:1:log", "lr=1:2:3", "lr=a:b", "lr=1:2:log:x"])
def test_what_cannot_be_varied_is_refused(text):
    with pytest.raises(TrainError, match="write NAME=LOW:HIGH"):
        parse_range(text)


def test_a_search_is_told_from_others(tmp_path):
    study_of(lambda s: 0.5, tmp_path / "t.jsonl", {"seed": 0, "head": "mld"}).measure({"a": 1})
    with pytest.raises(ResultsError, match=r"holds another search \(seed differ\)"):
        study_of(lambda s: 0.5, tmp_path / "t.jsonl", {"seed": 1, "head": "mld"})
    (tmp_path / "no.jsonl").write_text('{"search": "any"}\n{"number": 1}\n')
    with pytest.raises(ResultsError, match="no.jsonl:2: not a line of a search .*delete the line"):
        study_of(lambda s: 0.5, tmp_path / "no.jsonl")


def test_label_texts_are_read_once():
    asked = []

    def encode(texts):
        asked.extend(texts)
        return torch.tensor([[float(len(text))] for text in texts])

    again = remembered(encode)
    assert again(["a", "bb", "a"]).tolist() == [[1], [2], [1]]
    assert again(["bb", "ccc"]).tolist() == [[2], [3]]
    assert asked == ["a", "bb", "ccc"]


def tuned_by(search, run, dataset, cache, tmp_path, **more):
    return tune_run(run, dataset, cache, search, tmp_path / "trials.jsonl", **more)


def test_a_tuned_run_scores_what_its_trial_said(run, dataset, cache, tmp_path):
    search = Search("bayes", trials=4, beta=2.0)
    tuned = tuned_by(search, run, dataset, cache, tmp_path, thresholds=ThresholdConfig("global", beta=2.0))
    found = tuned.training["search"]
    trials = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()[1:]]
    assert found["trials"] == len(trials) == 4
    assert found["score"] == max(trial["score"] for trial in trials)
    assert tuned.metrics["val"]["micro"]["f2"] == pytest.approx(found["score"])
    best = next(trial for trial in trials if trial["score"] == found["score"])
    assert tuned.thresholds.tolist() == pytest.approx([best["threshold"]] * 4)
    assert tuned.training["weight_decay"] == found["settings"]["training.weight_decay"]
    assert tuned.training["options"] == {"scale": 4.0} and tuned.head.config["scale"] == 4.0
    save_run(tmp_path / "run", tuned)
    assert load_run(tmp_path / "run").training == tuned.training


def test_test_pictures_change_nothing(run, dataset, cache, tmp_path):
    items = tuple(replace(item, labels=("red",)) if item.split == "test" else item for item in dataset.items)
    (tmp_path / "other").mkdir()
    search = Search("bayes", trials=3)
    first = tuned_by(search, run, dataset, cache, tmp_path)
    other = tuned_by(search, run, replace(dataset, items=items), cache, tmp_path / "other")
    assert first.training["search"] == other.training["search"]
    assert evaluate_run(first, dataset, cache).images


def test_a_search_by_map_maximises_map(run, dataset, cache, tmp_path):
    search = Search("grid", figure="map", vary=("training.epochs=1,20", "scale=0.1,8.0"))
    tuned = tuned_by(search, run, dataset, cache, tmp_path)
    part = dataset.split("val")
    scores = predict_scores(tuned.head, head_features(tuned.head, part, cache))
    assert tuned.training["search"]["score"] == pytest.approx(mean_average_precision(part.targets(), scores))
    assert tuned.training["search"]["settings"] == {"training.epochs": 20, "scale": 8.0}


def test_settings_that_cannot_work_lose_and_say_why(dataset, encoder, cache, tmp_path):
    small = {"hidden": 16, "groups": 2, "layers": 1}
    run = train_run(dataset, encoder, cache, Recipe("mld", small, TrainConfig(lr=2e-3, epochs=1)))
    tuned = tuned_by(Search("grid", vary=("attention_heads=3,2",)), run, dataset, cache, tmp_path)
    assert tuned.head.config["attention_heads"] == 2 and tuned.head.config["hidden"] == 16
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()[1:]]
    assert lines[0]["score"] == 0 and "do not divide" in lines[0]["error"]
    (tmp_path / "none").mkdir()
    with pytest.raises(TrainError, match="no trial worked; the first said: .*mld does not take .*colour=1"):
        tuned_by(Search("grid", vary=("colour=1,2",)), run, dataset, cache, tmp_path / "none")


def test_the_ladder_trains_with_its_losses(run, dataset, cache, tmp_path):
    tuned = tuned_by(Search("ladder", trials=3, figure="map"), run, dataset, cache, tmp_path)
    assert tuned.training["loss"] == "apl"
    assert tuned.training["loss_options"] == tuned.training["search"]["settings"]["training.loss_options"]


def test_trials_hold_on_to_no_head(run, dataset, cache, tmp_path, monkeypatch):
    heads, alive = [], []

    def recorded(*args):
        head = untrained_head(*args)
        heads.append(weakref.ref(head))
        return head

    def count(trial):
        gc.collect()
        alive.append(sum(head() is not None for head in heads))

    monkeypatch.setattr("mlclip.tune.judge.untrained_head", recorded)
    tuned_by(Search("bayes", trials=2), run, dataset, cache, tmp_path, on_trial=count)
    assert alive == [0, 0] and len(heads) == 2


@pytest.mark.parametrize("name", [name for name, head in HEADS.items() if head.search])
def test_every_declared_search_can_be_searched(name, dataset, encoder, cache, tmp_path):
    options = {"hidden": 16} if name == "mld" else {}
    training = replace(HEADS[name].defaults, epochs=min(1, HEADS[name].defaults.epochs))
    run = train_run(dataset, encoder, cache, Recipe(name, options, training))
    space = space_of(run)
    settings = fold(
        {name: values.values[0] if isinstance(values, Choice) else values.high for name, values in space.items()}
    )
    assert apply(Recipe(name, options, training), settings)
    tuned = tuned_by(Search("bayes", trials=2), run, dataset, cache, tmp_path)
    assert not any(json.loads(line)["error"] for line in (tmp_path / "trials.jsonl").read_text().splitlines()[1:])
    assert tuned.training["search"]["settings"].keys() == settings.keys()


@pytest.mark.parametrize("head", ["zeroshot", "tip"])
def test_files_of_contexts_need_not_be_there_any_more(head, dataset, encoder, cache, tmp_path, monkeypatch):
    """The run keeps what they said: a search may start from another folder."""
    words = {"red": "rot", "green": "gr\u00fcn", "blue": "blau", "white": "wei\u00df"}
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    (tmp_path / "there" / "contexts.txt").write_text("a photo of {}\t12.345\n[labels] {}\n")
    (tmp_path / "there" / "de.json").write_text(json.dumps(words))
    options = {"contexts": "contexts.txt", "translations": "de.json", "keep_labels": True}
    run = train_run(dataset, encoder, cache, Recipe(head, options))
    monkeypatch.chdir(tmp_path)
    tuned = tuned_by(Search("bayes", trials=2, vary=("training.seed=0:9",)), run, dataset, cache, tmp_path)
    wording = {name: run.head.config[name] for name in ("contexts", "weights", "translations")}
    assert wording == {
        "contexts": ["[labels] a photo of {}", "[de] a photo of {}", "[labels] {}"],
        "weights": [12.345, 12.345, 100.0], "translations": {"de": words},
    }  # fmt: skip
    assert {name: tuned.head.config[name] for name in wording} == wording
    assert torch.equal(tuned.head.text, run.head.text)


def test_what_cannot_be_tuned_says_so(run, dataset, cache, tmp_path):
    training = {name: value for name, value in run.training.items() if name != "options"}
    with pytest.raises(TrainError, match="does not say which options"):
        tuned_by(Search(), replace(run, training=training), dataset, cache, tmp_path)
    with pytest.raises(TrainError, match="trains its encoder"):
        tuned_by(Search(), replace(run, encoder=replace(run.encoder, own=True)), dataset, cache, tmp_path)
    for wrong in ({"by": "luck"}, {"trials": 0}, {"beta": 0.0}, {"figure": "auc"}):
        with pytest.raises(TrainError, match="search by|at least 1|above 0"):
            Search(**wrong)


def test_the_command_tunes_thresholds_or_settings(run, dataset, cache, tmp_path):
    write_manifest(dataset, tmp_path / "data.jsonl")
    save_run(tmp_path / "run", replace(run, training=run.training | {"data": [str(tmp_path / "data.jsonl")]}))
    cached = ["--cache", str(cache.root)]

    def tuned(*words):
        result = CliRunner().invoke(app, ["tune", str(tmp_path / "run"), *words, *cached], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    tuned("--thresholds", "global", "--beta", "2")
    again = load_run(tmp_path / "run")
    assert len(set(again.thresholds.tolist())) == 1 and again.training["thresholds"]["beta"] == 2
    assert "search" not in again.training
    output = tuned("--search", "bayes", "--trials", "3")
    found = load_run(tmp_path / "run-tuned").training
    assert "trial   1" in output and "3 trials; wrote" in output
    assert found["search"]["beta"] == found["thresholds"]["beta"] == 2, "as its source searches"
    assert found["data"] == [str(tmp_path / "data.jsonl")]
    lines = (tmp_path / "run-tuned" / "trials.jsonl").read_text().splitlines()
    tuned("--search", "bayes", "--trials", "3")
    assert (tmp_path / "run-tuned" / "trials.jsonl").read_text().splitlines() == lines, "nothing is left to do"
    tuned("--search", "grid", "--vary", "scale=0.1,4.0", "--out", str(tmp_path / "grid"), "--figure", "map")
    found = load_run(tmp_path / "grid").training["search"]
    assert (found["by"], found["figure"], found["trials"], found["settings"]) == ("grid", "map", 2, {"scale": 4.0})
    for wrong in (["--search", "bayes", "--trials", "0"], ["--search", "grid", "--vary", "x"]):
        with pytest.raises(TrainError, match=r"at least 1|--vary 'x'"):
            tuned(*wrong)
