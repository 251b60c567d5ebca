"""The reports of a comparison: `report.md`, and `summary.md` for a README."""

from pathlib import Path

from mlclip_bench.heads.baselines import BASELINES
from mlclip_bench.heads.comparison import Comparison
from mlclip_bench.heads.derive import Derived, Shots
from mlclip_bench.heads.metrics import DECISIONS, RANKING, SUMMARY
from mlclip_bench.heads.tables import (
    COMPARED_AS,
    HEADLINES,
    MARK,
    costs_table,
    differences_table,
    gap,
    metrics_table,
    rules_table,
    shots_table,
    thesis_table,
)
from mlclip_bench.kit.files import write_text
from mlclip_bench.kit.intervals import RESAMPLES
from mlclip_bench.kit.markdown import bullets, document

MAP, F1 = HEADLINES
SUBJECTS = {
    "heads": "Methods", "losses": "Losses", "alignment": "The alignment loss", "recipes": "The documents' recipes",
}  # fmt: skip
THRESHOLDS = "Validation images decide when training stops and what the threshold of each label is (best F1)."
PROTOCOLS = """\
Every recipe runs under its document's protocol. Document 002 has one threshold for all labels, the one of the best F2
on validation images. The others state no threshold: the same test scores are read at 0.5, at one global threshold and
at one per label (both of the best F1 on validation images); tables that show one figure have that of one per label."""
NO_NOTE = "Whether the encoder has seen these images before is not stated here (`--note` states it)."
NO_INTERVAL = "No interval is stated: the test scores of these runs are not here."
DIFFERENCES = """\
Points below the highest value, and above logistic regression on the same embeddings. The 95 % intervals hold for all
pairs of methods at once: where one contains 0, the two methods cannot be told apart here."""
COSTS = "Means over seeds, on cached features, with thresholds but without encoding and testing."
CURVES = """\
All pairs of image and label. The dot shows the thresholds: it is not on the curve, since they differ by label."""
SHOTS = f"""\
For every label, about k training images and about k validation images are kept: with few labelled images there are few
to validate with. Each seed draws other images, the same for every method. All test images are kept. {MARK} marks what
cannot be told apart from the highest of its column."""
READING = f"""\
* {MARK} Cannot be told apart from the highest: in mAP, or in micro F1 where thresholds matter.
* Intervals: {RESAMPLES:,} resamples of the test images, the same for all methods, and of the seeds. They show what
  other test images of this kind and other seeds would change, not other training images. Three seeds are few.
* mAP and macro metrics are means over labels, so rare labels count like frequent ones; micro metrics count pairs.
* Precision, F1, F2 and mAP depend on prevalence: they will differ where labels are rarer or more common.
* MSE uses scores as they are; cosines are not probabilities, so compare it within a method only."""
BASELINE_WORDS = {
    "label frequency": "`label frequency` scores every image alike, by how common each label is in training.",
    "raw pixels": "`raw pixels` takes the labels of the ten nearest training images, 24 x 24 RGB, without an encoder.",
    "logistic regression": "`logistic regression` is scikit-learn's on the same embeddings; validation chooses C.",
}


def write_report(derived: Derived, folder: Path) -> None:
    """Write both files; figures are linked by the names that `draw_figures` gives them."""
    write_text(folder / "report.md", report(derived, folder.resolve().name))
    write_text(folder / "summary.md", summary(derived))


def report(derived: Derived, title: str) -> str:
    """The text of `report.md`."""
    study = derived.setting["study"]
    blocks = [f"# {SUBJECTS.get(study, study)}: {title}", _measured(derived), _protocol(derived)]
    blocks.append(derived.note or NO_NOTE)
    if None in derived.runs:
        blocks += _main_part(derived)
    if set(derived.runs) - {None}:
        blocks += ["## Few images per label", SHOTS, "![Test mAP against training images per label](shots.png)"]
        blocks += [shots_table(derived, metric) for metric in HEADLINES]
    baselines = dict.fromkeys(name for methods in derived.runs.values() for name in methods if name in BASELINES)
    baseline_notes = bullets(BASELINE_WORDS[name] for name in baselines)
    blocks += ["## How to read this", "\n".join(filter(None, (READING, baseline_notes))), *_origin(derived)]
    return document(*blocks)


def summary(derived: Derived) -> str:
    """The text of `summary.md`: what was measured, one table, the verdicts."""
    shots = list(derived.runs)[-1]  # all images, or the most that were measured
    return document(_measured(derived), metrics_table(derived, shots, SUMMARY, MAP), _verdicts(derived, shots))


def verdict(name: str, compared: Comparison) -> str:
    """One sentence that names a best method only if it differs from every other."""
    word, leading = COMPARED_AS[name][1], compared.leading

    def told(m: int) -> str:
        return f"{compared.methods[m]} ({100 * compared.estimates[m]:.1f})"

    if len(compared.methods) == 1:
        return f"**{word}**: only {told(0)} was measured."
    if len(leading) > 1:
        listed = ", ".join(told(compared.methods.index(method)) for method in leading)
        behind = [method for method in compared.methods if method not in leading]
        rest = f" Behind: {', '.join(behind)}." if behind else ""
        return f"**{word}**: no method is best; {listed} cannot be told apart.{rest}"
    best, second = sorted(range(len(compared.methods)), key=lambda m: -compared.estimates[m])[:2]
    return (
        f"**{word}**: {told(best)} is ahead of all others; of {told(second)} by {gap(compared, best, second)} points."
    )


def _measured(derived: Derived) -> str:
    setting = derived.setting
    data, images = setting["data"], setting["data"]["images"]
    labels = f"{data['classes']:,} labels{', the most frequent in training' if data['top'] else ''}"
    counts = ", ".join(
        f"{images.get(split, 0):,} {use}"
        for split, use in (("train", "to train"), ("val", "to validate"), ("test", "to test"))
    )
    seeds = max(len(lines) for methods in derived.runs.values() for lines in methods.values())
    return (
        f"{labels}; images: {counts}; encoder `{setting['encoder']['tag']}`. Values are percent on the test images, "
        f"mean ± standard deviation over {seeds} seed{'s' * (seeds > 1)}; a method without randomness runs once."
    )


def _protocol(derived: Derived) -> str:
    test, data, study = derived.setting["test"], derived.setting["data"], derived.setting["study"]
    missing = test["classes_without_positives"]
    return (
        f"{PROTOCOLS if study == 'recipes' else THRESHOLDS} "
        f"Prevalence, the share of true pairs of image and label, is {100 * test['prevalence']:.1f} %: what blind "
        f"guessing reaches in precision and mAP. Training contains {data['label_sets']:,} sets of labels; "
        f"{data['unseen_sets']:,} test images have another set."
        + (f" Labels without a test image, left out of macro metrics: {missing:,}." if missing else "")
    )


def _main_part(derived: Derived) -> list[str]:
    blocks = ["## Result", _verdicts(derived, None), "![Test mAP and micro F1 of every method](methods.png)"]
    if derived.setting["study"] == "recipes":
        blocks += _documents(derived)
    blocks += ["### How well scores rank", metrics_table(derived, None, RANKING, MAP)]
    blocks += ["### What is selected at the thresholds", metrics_table(derived, None, DECISIONS, F1)]
    differences = differences_table(derived)
    if differences:
        blocks += ["### Differences", DIFFERENCES, differences]
    blocks += ["### What training costs", COSTS, costs_table(derived), *_facts(derived)]
    blocks += ["## By label", "![ROC AUC of every label](classes.png)", _support(derived)]
    if derived.curves:
        blocks += ["## Precision against recall", CURVES, "![Precision-recall curves](precision_recall.png)"]
    return blocks


def _documents(derived: Derived) -> list[str]:
    thesis, rules = thesis_table(derived), [rules_table(derived, average) for average in ("micro", "macro")]
    blocks = ["### Document 002: F2 at one threshold", thesis] if thesis else []
    return blocks + (["### Documents without a stated threshold", *rules] if rules[0] else [])


def _verdicts(derived: Derived, shots: Shots) -> str:
    return bullets(verdict(name, compared) for name, compared in derived.comparisons[shots].items()) or NO_INTERVAL


def _facts(derived: Derived) -> list[str]:
    """What heads say about how they were made: numbers and words of the first seed."""
    rows = []
    for name, runs in derived.runs[None].items():
        facts = {key: value for key, value in runs[0].get("head", {}).items() if isinstance(value, (int, float, str))}
        words = (
            f"{key.replace('_', ' ')} {value if isinstance(value, str) else format(value, '.4g')}"
            for key, value in facts.items()
        )
        rows += [f"{name}, first seed: {', '.join(words)}"] if facts else []
    return [bullets(rows)]


def _support(derived: Derived) -> str:
    counts = sorted(count for count in derived.setting["test"]["per_class"]["positives"] if count)
    few = sum(count < 10 for count in counts)
    return (
        f"A label has {counts[0]} to {counts[-1]:,} test images, half of the labels {counts[len(counts) // 2]} or "
        f"more. Labels with fewer than ten: {few} of {len(counts)}; their values are mostly luck."
    )


def _origin(derived: Derived) -> list[str]:
    lines = [line for methods in derived.runs.values() for runs in methods.values() for line in runs]
    setting = derived.setting

    def told(key: str) -> str:
        return ", ".join(sorted({str(line[key]) for line in lines}))

    days = sorted({line["time"][:10] for line in lines})
    versions = ", ".join(f"{name} {number}" for name, number in setting["versions"].items())
    failed = {line["variant"]: line["error"] for line in derived.failures}
    return [
        bullets(f"Not measured: {name}: {error}" for name, error in failed.items()),
        f"Commit {told('commit')}; {told('machine')}; {' to '.join(dict.fromkeys((days[0], days[-1])))}; {versions}. "
        f"Encoder {setting['encoder']['fingerprint']}, data {', '.join(setting['data']['sources'])} "
        f"({setting['data']['digest'][:16]}). Raw lines: `results.jsonl`; intervals and curves: `statistics.json`.",
    ]
