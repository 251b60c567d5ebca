import json
import re
from dataclasses import replace

import numpy as np
import pytest
from mlclip_bench.cli import app
from mlclip_bench.heads import baselines
from mlclip_bench.heads.baselines import BASELINES, INVERSE_PENALTIES
from mlclip_bench.heads.derive import derive
from mlclip_bench.heads.figures import draw_figures
from mlclip_bench.heads.metrics import cell
from mlclip_bench.heads.report import report, write_report
from mlclip_bench.heads.results import Results
from mlclip_bench.heads.run import measure_missing, missing, plan, setting_of
from mlclip_bench.heads.studies import STUDIES, few_shot, variants_of
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from typer.testing import CliRunner

from mlclip.checkpoint import save_run
from mlclip.data import Dataset, Item, assign_splits, write_manifest
from mlclip.encoders.features import FeatureCache
from mlclip.errors import ResultsError, TrainError
from mlclip.heads import HEADS
from mlclip.settings import UNTRAINED, Recipe, ThresholdConfig, TrainConfig
from mlclip.training.runs import train_run, untrained_head

QUICK = TrainConfig(lr=0.02, epochs=3)
VARIANTS = {"sigmoid": Recipe("sigmoid", training=QUICK)}


@pytest.fixture(scope="module")
def dataset(pictures):
    paths, labels = pictures
    items = tuple(Item(path, names) for path, names in zip(paths, labels, strict=True))
    return assign_splits(Dataset(items, ("blue", "green", "red", "white")), (0.5, 0.25, 0.25), seed=0)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("mlclip_bench.heads.derive.RESAMPLES", 100)


@pytest.fixture
def store(encoder, tmp_path):
    return FeatureCache(encoder, tmp_path / "features")


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "study")


def measured(tasks, results, dataset, store, **options):
    return list(
        measure_missing(tasks, results, dataset, store, setting_of("heads", dataset, store, [], None), **options)
    )


def test_a_study_is_measured_once_and_told(results, dataset, store):
    tasks = plan(VARIANTS, seeds=2)
    lines = measured(tasks, results, dataset, store)
    assert [(line["variant"], line["seed"]) for line in lines] == [
        ("label frequency", 0),
        ("raw pixels", 0),
        ("logistic regression", 0),
        ("sigmoid", 0),
        ("sigmoid", 1),
    ]
    assert lines[3]["test"]["mean_average_precision"] != lines[4]["test"]["mean_average_precision"]
    assert measured(tasks, results, dataset, store) == []
    derived = derive(results)
    assert list(derived.runs[None])[-1] == "label frequency", "baselines stand last, the weaker below"
    files = [*draw_figures(derived, results.folder), results.folder / "report.md", results.folder / "summary.md"]
    write_report(derived, results.folder)
    assert {file.name for file in files} == {
        f"{name}.{suffix}" for name in ("methods", "classes", "precision_recall") for suffix in ("png", "svg")
    } | {"report.md", "summary.md"}
    assert all(file.stat().st_size > 500 for file in files)


def test_raw_lines_say_what_was_measured_and_where(results, dataset, store):
    line = measured(plan(VARIANTS, seeds=1), results, dataset, store)[-1]
    assert line["recipe"]["training"] == {**line["recipe"]["training"], "lr": 0.02, "epochs": 3, "seed": 0}
    assert line["encoder"]["fingerprint"] == store.encoder.fingerprint
    assert {"commit", "machine", "versions", "time", "cpu_seconds", "wall_seconds", "epochs"} <= line.keys()
    for split in ("val", "test"):
        part = dataset.split(split)
        assert line[split]["images"] == len(part)
        assert line[split]["per_class"]["positives"] == part.targets().sum(axis=0).tolist()
        assert len(line[split]["per_class"]["average_precision"]) == 4
        assert len(line[split]["per_class"]["roc_auc"]) == 4
    assert line["labels"] == list(dataset.classes)


def test_a_stopped_study_keeps_what_it_has_and_goes_on(results, dataset, store):
    tasks = plan(VARIANTS, seeds=2)

    def stop_at_the_last(task):
        if task == tasks[-1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(tasks, results, dataset, store, on_task=stop_at_the_last)
    assert len(results.lines()) == len(tasks) - 1
    assert [line["seed"] for line in measured(tasks, results, dataset, store)] == [1]


def test_a_changed_recipe_is_measured_anew(results, dataset, store):
    measured(plan(VARIANTS, seeds=1), results, dataset, store)
    longer = {"sigmoid": Recipe("sigmoid", training=replace(QUICK, epochs=4))}
    assert [line["epochs"] for line in measured(plan(longer, seeds=1), results, dataset, store)] == [4]
    assert [line["epochs"] for line in results.latest() if line["variant"] == "sigmoid"] == [4]


def test_a_method_that_fails_is_recorded_and_the_others_go_on(results, dataset, store):
    variants = {"broken": Recipe("sigmoid", {"no_such_option": 1}), **VARIANTS}
    lines = measured(plan(variants, seeds=1), results, dataset, store)
    assert ["error" in line for line in lines] == [False, False, False, True, False]
    assert [task.variant for task in missing(plan(variants, seeds=1), results.lines())] == ["broken"]
    assert "broken" not in derive(results).runs[None]
    write_report(derive(results), results.folder)
    assert "Not measured: broken: " in (results.folder / "report.md").read_text()


def test_a_method_without_randomness_runs_twice_and_no_more(results, dataset, store):
    still = {"still": Recipe("sigmoid", training=UNTRAINED)}
    tasks = plan(still, seeds=4)
    lines = [{**task.describe(), "scores": {"sha256": "same"}} for task in tasks if task.recipe and task.seed < 2]
    assert [task.variant for task in missing(tasks, lines)] == [*BASELINES]
    lines[1]["scores"]["sha256"] = "other"
    assert [task.seed for task in missing(tasks, lines) if task.recipe] == [2, 3]
    lines = [{**task.describe(), "scores": {"sha256": "same"}} for task in tasks if task.recipe and task.seed < 2]
    changed = plan({"still": Recipe("sigmoid", training=UNTRAINED, thresholds=ThresholdConfig("global"))}, seeds=4)
    assert [task.seed for task in missing(changed, lines) if task.recipe] == [0, 1, 2, 3]
    few = plan(still, seeds=4, shots=[1, None])
    lines = [{**task.describe(), "scores": {"sha256": "same"}} for task in few if task.recipe and task.seed < 2]
    todo = [(task.shots, task.seed) for task in missing(few, lines) if task.recipe]
    assert todo == [(1, 2), (1, 3)], "each seed draws other pictures"


def test_equal_runs_count_once(results, dataset, store):
    measured(plan(VARIANTS, seeds=1), results, dataset, store)
    line = results.lines()[-1]
    results.add_run({**line, "seed": 1}, results.scores(line))
    assert len(derive(results).runs[None]["sigmoid"]) == 1


def test_few_shots_cut_training_and_validation_and_leave_test_whole(dataset):
    few = few_shot(dataset, 2, seed=0)
    assert few.split("test").items == dataset.split("test").items
    for name in ("train", "val"):
        counts = few.split(name).targets().sum(axis=0)
        assert counts.min() >= 2
        assert len(few.split(name)) <= 8 < len(dataset.split(name))
        assert {item.path for item in few.split(name).items} <= {item.path for item in dataset.split(name).items}
    assert few_shot(dataset, 2, seed=1) != few
    assert few_shot(dataset, 2, seed=0) == few


def test_shots_have_a_table_and_a_picture(results, dataset, store):
    measured(plan(VARIANTS, seeds=2, shots=[1, 4, None]), results, dataset, store)
    derived = derive(results)
    assert list(derived.runs) == [1, 4, None]
    assert derived.runs[1]["sigmoid"][0]["images"]["train"] <= 4
    assert {file.stem for file in draw_figures(derived, results.folder)} == {
        "methods",
        "classes",
        "precision_recall",
        "shots",
    }
    write_report(derived, results.folder)
    assert "| mAP | 1 | 4 | all |" in (results.folder / "report.md").read_text()


def test_a_copy_without_scores_tells_the_same(results, dataset, store):
    measured(plan(VARIANTS, seeds=2), results, dataset, store)
    write_report(derive(results), results.folder)
    before = (results.folder / "report.md").read_text()
    for file in (results.folder / "scores").iterdir():
        file.unlink()
    write_report(derive(results), results.folder)
    assert (results.folder / "report.md").read_text() == before
    (results.folder / "statistics.json").unlink()
    write_report(derive(results), results.folder)
    assert "No interval is stated" in (results.folder / "report.md").read_text()
    assert {file.stem for file in draw_figures(derive(results), results.folder)} == {"methods", "classes"}


def test_statistics_are_derived_anew_when_a_run_is_added(results, dataset, store):
    measured(plan(VARIANTS, seeds=1), results, dataset, store)
    first = derive(results).comparisons[None]["f1_micro"]
    measured(plan(VARIANTS, seeds=2), results, dataset, store)
    second = derive(results).comparisons[None]["f1_micro"]
    assert not np.array_equal(first.estimates, second.estimates)


def test_estimates_are_the_means_of_the_raw_lines(results, dataset, store):
    measured(plan(VARIANTS, seeds=2), results, dataset, store)
    derived = derive(results)
    for figure, get in (
        ("mean_average_precision", lambda m: m["mean_average_precision"]),
        ("f1_micro", lambda m: m["micro"]["f1"]),
    ):
        compared = derived.comparisons[None][figure]
        for name, estimate in zip(compared.methods, compared.estimates, strict=True):
            lines = derived.runs[None][name]
            assert estimate == pytest.approx(np.mean([get(line["test"]) for line in lines]), abs=1e-6)


def test_nothing_measured_is_an_error(results):
    with pytest.raises(ResultsError, match="--data"):
        derive(results)


def test_raw_pixels_against_a_plain_loop(dataset, store):
    train, test = dataset.split("train"), dataset.split("test")
    pixels = {item.path: baselines._pixels([item])[0].astype(np.float64) for item in dataset.items}
    targets, rows = train.targets(), []
    for asked in test.items:
        distances = [np.sqrt(((pixels[asked.path] - pixels[known.path]) ** 2).sum()) for known in train.items]
        nearest = np.argsort(distances, kind="stable")[:10]
        rows.append((nearest, np.array(distances)[nearest]))
    mean = np.mean([distances for _, distances in rows])
    expected = []
    for nearest, distances in rows:
        weights = np.exp(-5 * distances / mean)
        expected.append((weights[:, None] * targets[nearest]).sum(axis=0) / weights.sum())
    np.testing.assert_allclose(baselines.raw_pixels(dataset, store)(test), expected, atol=1e-4)


def test_validation_chooses_the_penalty_of_logistic_regression(dataset, store):
    train, validation, test = (dataset.split(name) for name in ("train", "val", "test"))
    rows = {part: store.rows([item.path for item in part.items])[:] for part in (train, validation, test)}

    def scores(inverse_penalty, asked):
        models = (LogisticRegression(C=inverse_penalty).fit(rows[train], own) for own in train.targets().T)
        return np.stack([model.predict_proba(rows[asked])[:, 1] for model in models], axis=1)

    def validation_map(inverse_penalty):
        return average_precision_score(validation.targets(), scores(inverse_penalty, validation))

    best = max(INVERSE_PENALTIES, key=validation_map)
    found = baselines.logistic_regression(dataset, store)
    np.testing.assert_allclose(found(test), scores(best, test), atol=1e-3)


def test_logistic_regression_knows_more_than_255_classes(dataset, store, monkeypatch):
    monkeypatch.setattr(baselines, "INVERSE_PENALTIES", (1.0,))
    added = [f"added {n:03}" for n in range(300)]  # each on one image in five
    items = tuple(replace(item, labels=(*item.labels, *added[n % 5 :: 5])) for n, item in enumerate(dataset.items))
    many = Dataset(items, (*added, *dataset.classes))
    found, few = (baselines.logistic_regression(part, store)(part.split("test")) for part in (many, dataset))
    np.testing.assert_allclose(found[:, len(added) :], few, atol=1e-4)


def test_every_head_but_those_left_out_is_in_the_study_of_heads():
    assert set(variants_of("heads")) == set(HEADS) - {"siglip"} | {"fusion, no texts"}
    assert set(variants_of("heads", ["mld"])) == {"mld"}
    assert {recipe.head for recipe in variants_of("losses", ["sigmoid"]).values()} == {"sigmoid"}


def test_fusion_is_also_asked_without_the_texts_that_it_learned_from(results, dataset, store):
    titled = replace(dataset, items=tuple(replace(item, text=" ".join(item.labels)) for item in dataset.items))
    training = TrainConfig(lr=5e-3, epochs=20, patience=20)
    variants = {name: replace(recipe, training=training) for name, recipe in variants_of("heads", ["fusion"]).items()}
    read, unread = measured(plan(variants, seeds=1), results, titled, store)[-2:]
    assert read["val"] == unread["val"], "both were trained and tuned alike"
    assert read["test"]["mean_average_precision"] != unread["test"]["mean_average_precision"]
    assert missing(plan(variants, seeds=1), results.lines()) == []


def test_recipes_are_measured_by_their_documents_protocols(results, dataset, store):
    chosen = ("000-sigmoid", "000-powerset", "002-neighbors", "002-knn1")
    variants = {name: STUDIES["recipes"][name] for name in chosen}
    variants["000-sigmoid"] = replace(variants["000-sigmoid"], training=QUICK)
    setting = setting_of("recipes", dataset, store, [], None)
    lines = {line["variant"]: line for line in measure_missing(plan(variants, 1), results, dataset, store, setting)}
    assert {name for name, line in lines.items() if "rules" in line} == {"000-sigmoid", "000-powerset"}
    sigmoid = lines["000-sigmoid"]
    scores, targets = results.scores(sigmoid).scores, results.targets()
    half, whole, own = sigmoid["rules"].values()
    assert half["micro"]["f1"] == pytest.approx(f1_score(targets, scores >= 0.5, average="micro", zero_division=0))
    assert own["macro"] == sigmoid["test"]["macro"] and whole["micro"] != own["micro"] != half["micro"]
    derived = derive(results)
    assert "f2_micro" in derived.comparisons[None]
    text = report(derived, "own")
    for name, there in (("002-neighbors", "56.8"), ("002-knn1", "45.8")):
        f2 = cell("F2 micro", [lines[name]["test"]["micro"]["f2"]])
        assert re.search(rf"\| (● )?{name} \| {there} \| {f2} \|", text), text
    rates = " / ".join(f"{100 * half['micro'][rate]:.1f}" for rate in ("precision", "recall", "f1"))
    ranks = cell("mAP", [sigmoid["test"]["mean_average_precision"]])
    assert f"| 000-sigmoid | 49.3 / 27.6 / 35.1 | {ranks} | {rates} |" in text
    assert "Document 002 has one threshold" in text


@pytest.mark.parametrize(
    ("study", "heads", "message"),
    [
        ("nothing", None, "unknown study 'nothing'"),
        ("heads", ["sigmiod"], "unknown head 'sigmiod'"),
        ("losses", ["knn1"], "has no variant"),
    ],
)
def test_unknown_studies_and_heads_are_named(study, heads, message):
    with pytest.raises(TrainError, match=message):
        variants_of(study, heads)


def test_every_variant_of_every_study_can_be_built(dataset, encoder):
    for variants in STUDIES.values():
        for recipe in variants.values():
            assert untrained_head(recipe, dataset, encoder).name == recipe.head


@pytest.fixture
def command(dataset, encoder_folder, tmp_path, monkeypatch):
    write_manifest(dataset, tmp_path / "manifest.jsonl")
    monkeypatch.setattr(HEADS["sigmoid"], "defaults", QUICK)
    monkeypatch.setattr("mlclip_bench.heads.figures.draw_figures", lambda derived, folder: [])  # slow, and tested above
    words = ["heads", "--heads", "sigmoid", "--seeds", "1", "--data", tmp_path / "manifest.jsonl", "--out",
             tmp_path / "study", "--cache", tmp_path / "features", "--encoder", encoder_folder]  # fmt: skip

    def run(*more):
        return CliRunner().invoke(app, [str(word) for word in (*words, *more)])

    return run


def test_the_command_measures_reports_and_derives_again(command, tmp_path):
    done = command("--note", "The encoder saw nothing.")
    assert done.exit_code == 0, done.output
    report = (tmp_path / "study" / "report.md").read_text()
    assert "The encoder saw nothing." in report
    assert str(tmp_path) not in report + (tmp_path / "study" / "results.jsonl").read_text()
    (tmp_path / "study" / "report.md").unlink()
    again = CliRunner().invoke(app, ["heads", "--out", str(tmp_path / "study")])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "study" / "report.md").read_text() == report


def test_a_new_run_is_compared_with_the_old_on_the_labels_that_both_know(dataset, store, tmp_path):
    write_manifest(dataset, tmp_path / "manifest.jsonl")
    some = dataset.with_classes(("blue", "green", "red"))
    for name, recipe in (("weak", Recipe("sigmoid", training=replace(QUICK, lr=1e-9))), ("good", Recipe("sigmoid"))):
        part = some if name == "weak" else dataset
        run = train_run(part, store.encoder, store, recipe)
        save_run(tmp_path / name, replace(run, training=run.training | {"data": [str(tmp_path / "manifest.jsonl")]}))

    def compared(*names):
        words = ["heads", "--runs", *(str(tmp_path / name) for name in names), "--cache", str(tmp_path / "features")]
        return CliRunner().invoke(app, words)

    done = compared("weak", "good")
    assert done.exit_code == 0, done.output
    first, map_line, _ = done.output.splitlines()
    assert first.endswith(f"{len(dataset.split('val')):,} validation images, 3 labels that both runs know")
    assert re.search(
        r"mAP: \d+\.\d before, \d+\.\d after: \d+\.\d \(.* to .*\) points, the new run is better", map_line
    )
    assert "the new run is worse" in compared("good", "weak").output
    assert "they cannot be told apart" in compared("good", "good").output
    assert CliRunner().invoke(app, ["heads"]).exit_code == 2


def test_the_command_stopped_by_hand_reports_what_it_has(command, tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlclip_bench.heads.run.train_run", stop)
    assert command().exit_code == 130
    lines = (tmp_path / "study" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["variant"] for line in lines] == [*BASELINES]
    assert (tmp_path / "study" / "report.md").exists()


def test_the_command_ends_with_3_when_a_run_failed(command, monkeypatch):
    def fail(*arguments, **options):
        raise TrainError("it ran away")

    monkeypatch.setattr("mlclip_bench.heads.run.train_run", fail)
    done = command()
    assert done.exit_code == 3
    assert "sigmoid, seed 0: failed: it ran away" in done.output


def test_other_data_are_refused(command, dataset, tmp_path):
    assert command().exit_code == 0
    write_manifest(replace(dataset, items=dataset.items[1:]), tmp_path / "manifest.jsonl")
    assert "--out" in str(command().exception)


@pytest.mark.parametrize("shots", ["0", "1,some", "-2,all", ""])
def test_shots_that_make_no_sense_are_refused(command, shots):
    refused = command("--shots", shots)
    assert refused.exit_code == 2
    assert "--shots: takes whole numbers and" in " ".join(refused.output.replace("│", " ").split())
