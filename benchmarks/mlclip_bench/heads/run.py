"""Measure what a study has not measured yet: train, score the test images, write one raw line per run.

Variants take turns within a seed, so an interrupted study is balanced. A run is repeated only if the recipe behind its
name has changed, or if it failed.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlclip.data import Dataset
from mlclip.data.read import parse_source
from mlclip.encoders.features import FeatureCache
from mlclip.errors import MlclipError
from mlclip.heads import HEADS
from mlclip.json_lines import Line
from mlclip.metrics import evaluate
from mlclip.provenance import provenance
from mlclip.settings import Recipe, ThresholdConfig
from mlclip.thresholds import tune_thresholds
from mlclip.training.loop import Epoch, predict_scores
from mlclip.training.runs import examples, head_features, run_cache, train_run, untrained_head
from mlclip_bench.heads.baselines import BASELINES, Baseline, Score, Scores
from mlclip_bench.heads.results import Results, TestScores
from mlclip_bench.heads.studies import RULES, WITHOUT_TEXTS, few_shot


@dataclass(frozen=True)
class Task:
    """One run to measure."""

    variant: str  # its name in the study, or in BASELINES
    recipe: Recipe | None  # what to train, with its seed; None for a baseline
    shots: int | None  # training images per class; None for all
    seed: int  # of the training and of the sample
    texts: bool = True  # whether test images keep their texts

    def describe(self) -> Line:
        """The task as its raw line stores it, plain JSON values."""
        baseline: dict[str, Any] = {"thresholds": asdict(ThresholdConfig())}
        recipe = asdict(self.recipe) if self.recipe else baseline
        if not self.texts:
            recipe["texts"] = False
        line = {"variant": self.variant, "shots": self.shots, "seed": self.seed, "recipe": recipe}
        plain: Line = json.loads(json.dumps(line, default=dict))  # as it will be when read back: tuples become lists
        return plain


def plan(variants: Mapping[str, Recipe], seeds: int, shots: Sequence[int | None] = (None,)) -> list[Task]:
    """All runs of a study: baselines, then variants, within each number of shots and each seed."""
    tasks = []
    for seed in range(seeds):
        for k in shots:
            tasks += [Task(name, None, k, seed) for name in BASELINES if k is not None or seed == 0]
            for name, recipe in variants.items():
                training = replace(recipe.training or HEADS[recipe.head].defaults, seed=seed)
                tasks.append(Task(name, replace(recipe, training=training), k, seed, texts=name not in WITHOUT_TEXTS))
    return tasks


def setting_of(study: str, dataset: Dataset, store: FeatureCache, sources: Sequence[str], top: int | None) -> Line:
    """What all lines of a folder have in common: the study, facts about the data, and the encoder."""
    known, asked = ([frozenset(item.labels) for item in dataset.split(name).items] for name in ("train", "test"))
    held = set(known)
    return {
        "study": study,
        "data": {
            "sources": {path.name: _file_digest(path) for path, _ in map(parse_source, sources)},
            "digest": _data_digest(dataset),
            "top": top,
            "images": dataset.split_counts,
            "classes": len(dataset.classes),
            "labels_per_image": round(sum(len(item.labels) for item in dataset.items) / len(dataset), 3),
            "label_sets": len(held),
            "unseen_sets": sum(labels not in held for labels in asked),
        },
        "encoder": {"tag": store.encoder.tag, "fingerprint": store.encoder.fingerprint},
    }


def warm(dataset: Dataset, store: FeatureCache, tasks: Sequence[Task], on_features: Callable[[int, int], None]) -> None:
    """Fill the features cache with all that the tasks will read, outside of any clock."""
    store.rows([item.path for item in dataset.items], on_progress=on_features)  # what logistic regression reads
    seen: set[tuple[str, ...]] = set()
    for recipe in {task.variant: task.recipe for task in tasks if task.recipe}.values():
        try:
            head = untrained_head(recipe, dataset, store.encoder)
            if head.inputs not in seen:
                examples(head, dataset, store, on_progress=on_features)
        except MlclipError:
            continue  # this head will fail in its turn, with a line
        seen.add(head.inputs)


def missing(tasks: Sequence[Task], lines: Sequence[Line]) -> list[Task]:
    """The tasks that have no line, or one that failed or came from another recipe.

    A method that takes no gradient step and gave the same scores under two seeds has no randomness: further seeds are
    left out.
    """
    absent = object()
    done = {Results.key(line): line["recipe"] for line in lines if "error" not in line}
    return [
        task
        for task in tasks
        if done.get((task.variant, task.shots, task.seed), absent) != task.describe()["recipe"]
        and not _settled(task, lines)
    ]


def measure_missing(
    tasks: Sequence[Task],
    results: Results,
    dataset: Dataset,
    store: FeatureCache,
    setting: Line,
    *,
    on_task: Callable[[Task], None] = lambda task: None,
    on_epoch: Callable[[Task, Epoch], None] = lambda task, epoch: None,
) -> Iterator[Line]:
    """Measure the tasks that `missing` gives, one after the other; yields every line, as soon as it is on disk.

    A run that fails with one of mlclip's errors becomes a line with `error`, and the next one follows. Raises
    ResultsError if the folder holds lines of another setting (see `setting_of`), or cannot be written.
    """
    results.check(setting)
    results.save_targets(dataset.split("test").targets())
    lines = results.latest()
    for task in tasks:
        if not missing([task], lines):
            continue
        on_task(task)
        line = {**task.describe(), **setting, "labels": list(dataset.classes), **provenance()}
        outcome = None
        try:
            measured, outcome = _measure(task, dataset, store, on_epoch, rules=setting["study"] == "recipes")
            line |= measured
        except MlclipError as error:
            line["error"] = str(error)
        lines.append(results.add_run(line, outcome))
        yield lines[-1]


def _settled(task: Task, lines: Sequence[Line]) -> bool:
    if task.shots is not None or task.recipe is None or task.recipe.training is None or task.recipe.training.epochs:
        return False
    own = _unseeded(task.describe())
    digests = [line["scores"]["sha256"] for line in lines if "scores" in line and _unseeded(line) == own]
    return len(digests) > 1 and len(set(digests)) == 1


def _unseeded(line: Line) -> tuple[str, int | None, Line]:
    recipe = line["recipe"]
    if "training" in recipe:
        recipe = {**recipe, "training": {**recipe["training"], "seed": None}}
    return line["variant"], line["shots"], recipe


@dataclass(frozen=True)
class _Fitted:
    """What training gives: how to score images, thresholds, metrics on validation, and other facts."""

    score: Score
    thresholds: Scores
    validation: dict[str, Any]
    facts: Line


def _measure(
    task: Task, dataset: Dataset, store: FeatureCache, on_epoch: Callable[[Task, Epoch], None], *, rules: bool
) -> tuple[Line, TestScores]:
    part = dataset if task.shots is None else few_shot(dataset, task.shots, task.seed)
    wall, cpu = time.perf_counter(), time.process_time()
    if task.recipe is None:
        fitted = _fit_baseline(BASELINES[task.variant], part, store)
    else:
        fitted = _fit_head(task.recipe, part, store, lambda epoch: on_epoch(task, epoch))
    seconds = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
    test = part.split("test")
    if not task.texts:
        test = replace(test, items=tuple(replace(item, text=None) for item in test.items))
    outcome = TestScores(fitted.score(test), fitted.thresholds)
    tested = evaluate(test.targets(), outcome.scores, outcome.thresholds).to_dict()
    line = {
        "images": part.split_counts,
        **fitted.facts,
        **{name: round(value, 2) for name, value in seconds.items()},
        "val": _columns(fitted.validation),
        "test": _columns(tested),
    }
    if rules and task.recipe is not None and task.recipe.thresholds == ThresholdConfig():
        line["rules"] = _by_rule(part.split("val"), test, fitted.score, outcome.scores)
    return line, outcome


def _by_rule(validation: Dataset, test: Dataset, score: Score, scores: Scores) -> Line:
    """Averages of the same test scores under each of the RULES for thresholds."""
    known, guessed, rates = validation.targets(), score(validation), {}
    for title, config in RULES.items():
        limits = 0.5 if config is None else tune_thresholds(known, guessed, **asdict(config))
        figures = evaluate(test.targets(), scores, limits)
        rates[title] = {"micro": asdict(figures.micro), "macro": asdict(figures.macro)}
    return rates


def _fit_baseline(baseline: Baseline, part: Dataset, store: FeatureCache) -> _Fitted:
    validation, score = part.split("val"), baseline(part, store)
    targets, scores = validation.targets(), score(validation)
    thresholds = tune_thresholds(targets, scores, **asdict(ThresholdConfig()))
    return _Fitted(score, thresholds, evaluate(targets, scores, thresholds).to_dict(), {})


def _fit_head(recipe: Recipe, part: Dataset, store: FeatureCache, on_epoch: Callable[[Epoch], None]) -> _Fitted:
    run = train_run(part, store.encoder, store, recipe, on_epoch=on_epoch)
    facts = {"epochs": run.training["epochs_run"], "best_epoch": run.training["best_epoch"], "head": run.head.facts()}

    def score(asked: Dataset) -> Scores:
        return predict_scores(run.head, head_features(run.head, asked, run_cache(run, store)))

    return _Fitted(score, run.thresholds, run.metrics["val"], facts)


def _columns(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics with the per-class table as columns, in the order of the line's `labels`."""
    names = ("positives", "selected", "precision", "recall", "f2", "average_precision", "roc_auc")
    columns = {name: [row[name] and round(row[name], 6) for row in metrics["per_class"]] for name in names}
    return metrics | {"per_class": columns}


def _data_digest(dataset: Dataset) -> str:
    """Digest of all that a comparison takes from the data: files (by content if known), labels, texts, splits."""
    digest = hashlib.sha256(json.dumps(dataset.classes).encode())
    for item in dataset.items:
        row = [item.sha256 or item.path.name, sorted(item.labels), item.text, item.split]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _file_digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
