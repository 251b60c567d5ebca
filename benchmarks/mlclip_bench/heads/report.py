"""A comparison in words: `report.md`, and `summary.md` for a README."""

from __future__ import annotations

from mlclip.errors import ResultsError
from mlclip_bench.heads.derived import Derived, Shots, is_floor
from mlclip_bench.heads.figures import DECISIONS, RANKING, SHORT
from mlclip_bench.heads.results import Results
from mlclip_bench.heads.statistics import RESAMPLES, Comparison
from mlclip_bench.heads.tables import (
    FIGURE_WORDS,
    MARK,
    costs_table,
    differences_table,
    figures_table,
    gap,
    shots_table,
)

MAP, F1 = FIGURE_WORDS
SUBJECTS = {"heads": "Methods", "losses": "Losses", "alignment": "The alignment loss"}
NO_NOTE = "Whether the encoder has seen these pictures before is not stated here (`--note` states it)."
NO_INTERVAL = "No interval is stated: the test scores of these runs are not here."
DIFFERENCES = """\
Points below the highest figure, with 95 % intervals that hold for all pairs of methods at once: where one holds 0, the
two cannot be told apart here."""
COSTS = "Means over seeds, on cached features, thresholds included; encoding and testing are not."
CURVES = """\
All pairs of picture and label. The dot is where the thresholds stand: not on the curve, since they differ by label."""
SHOTS = f"""\
Of every label about k training pictures are kept, and about k validation pictures, since who has so few has no more to
validate with; each seed draws others, the same for every method. Test pictures are all there. {MARK} marks what cannot
be told apart from the highest of its column."""
READING = f"""\
* {MARK} Cannot be told apart from the highest: in mAP, or in micro F1 where thresholds are at work.
* Intervals: {RESAMPLES:,} resamples of the test pictures, the same for all methods, and of the seeds. They say what
  other test pictures of this kind and other seeds would change, not other training pictures. Three seeds are few.
* mAP and macro figures are means over labels, rare ones count like frequent ones; micro figures count pairs.
* Precision, F1, F2 and mAP depend on prevalence: they will differ where labels are rarer or more common.
* MSE takes scores as they are; cosines are no probabilities, so compare it within a method."""
FLOOR_WORDS = {
    "label frequency": "* `label frequency` scores every picture alike, by how common each label is in training.",
    "raw pixels": "* `raw pixels` takes the labels of the ten nearest training pictures, 24 x 24 RGB, no encoder.",
}


def write_report(results: Results, derived: Derived) -> None:
    """Write both files beside the raw lines; pictures are linked by the names `draw` gives them.

    Raises:
        ResultsError: the folder is not writable.
    """
    files = {"report.md": report(derived, results.folder.resolve().name), "summary.md": summary(derived)}
    try:
        for name, text in files.items():
            (results.folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{results.folder}: cannot be written: {error.strerror or error}") from error


def report(derived: Derived, title: str) -> str:
    """The text of `report.md`."""
    study = derived.setting["study"]
    blocks = [f"# {SUBJECTS.get(study, study)}: {title}", _measured(derived), _protocol(derived)]
    blocks.append(derived.note or NO_NOTE)
    if None in derived.runs:
        blocks += _main_part(derived)
    if set(derived.runs) - {None}:
        blocks += ["## Few pictures a label", SHOTS, "![Test mAP against training pictures a label](shots.png)"]
        blocks += [shots_table(derived, figure) for figure in FIGURE_WORDS]
    floors = dict.fromkeys(name for methods in derived.runs.values() for name in methods if is_floor(name))
    blocks += ["## How to read this", "\n".join([READING, *(FLOOR_WORDS[name] for name in floors)]), *_origin(derived)]
    return "\n\n".join(blocks) + "\n"


def summary(derived: Derived) -> str:
    """The text of `summary.md`: what was measured, one table, the verdict."""
    shots = list(derived.runs)[-1]  # all images, or the most that were measured
    blocks = [_measured(derived), figures_table(derived, shots, SHORT, MAP), _verdicts(derived, shots)]
    return "\n\n".join(blocks) + "\n"


def verdict(name: str, figure: Comparison) -> str:
    """One sentence that names a best method only where it is apart from every other."""
    word, leading = FIGURE_WORDS[name], figure.leading

    def told(m: int) -> str:
        return f"{figure.methods[m]} ({100 * figure.estimates[m]:.1f})"

    if len(figure.methods) == 1:
        return f"* **{word}**: only {told(0)} was measured."
    if len(leading) > 1:
        listed = ", ".join(told(figure.methods.index(method)) for method in leading)
        behind = [method for method in figure.methods if method not in leading]
        rest = f" Behind: {', '.join(behind)}." if behind else ""
        return f"* **{word}**: no method is best; {listed} cannot be told apart.{rest}"
    best, second = sorted(range(len(figure.methods)), key=lambda m: -figure.estimates[m])[:2]
    return (
        f"* **{word}**: {told(best)} is ahead of all others; of {told(second)} by {gap(figure, best, second)} points."
    )


def _measured(derived: Derived) -> str:
    setting = derived.setting
    data, images = setting["data"], setting["data"]["images"]
    labels = f"{data['classes']:,} labels{', the most frequent in training' if data['top'] else ''}"
    pictures = ", ".join(
        f"{images.get(split, 0):,} {use}"
        for split, use in (("train", "to train"), ("val", "to validate"), ("test", "to test"))
    )
    seeds = max(len(lines) for methods in derived.runs.values() for lines in methods.values())
    return (
        f"{labels}; pictures: {pictures}; encoder `{setting['encoder']['tag']}`. Figures are percent on the test "
        f"pictures, mean ± standard deviation over {seeds} seed{'s' * (seeds > 1)}; a method without randomness runs "
        "once."
    )


def _protocol(derived: Derived) -> str:
    test, data = derived.setting["test"], derived.setting["data"]
    missing = test["classes_without_positives"]
    return (
        "Validation pictures decide when training stops and where each label's threshold stands (best F1). "
        f"Prevalence, the share of true pairs of picture and label, is {100 * test['prevalence']:.1f} %: what blind "
        f"guessing reaches in precision and mAP. Training holds {data['label_sets']:,} sets of labels; "
        f"{data['unseen_sets']:,} test pictures have a set that it does not hold."
        + (f" Labels on no test picture, left out of macro figures: {missing:,}." if missing else "")
    )


def _main_part(derived: Derived) -> list[str]:
    blocks = ["## Result", _verdicts(derived, None), "![Test mAP and micro F1 of every method](methods.png)"]
    blocks += ["### How well scores rank", figures_table(derived, None, RANKING, MAP)]
    blocks += ["### What is selected at the thresholds", figures_table(derived, None, DECISIONS, F1)]
    differences = differences_table(derived)
    if differences:
        blocks += ["### Differences", DIFFERENCES, differences]
    blocks += ["### What training costs", COSTS, costs_table(derived), *_facts(derived)]
    blocks += ["## By label", "![ROC AUC of every label](classes.png)", _support(derived)]
    if derived.curves:
        blocks += ["## Precision against recall", CURVES, "![Precision-recall curves](precision_recall.png)"]
    return blocks


def _verdicts(derived: Derived, shots: Shots) -> str:
    told = [verdict(name, figure) for name, figure in derived.comparisons[shots].items()]
    return "\n".join(told) or NO_INTERVAL


def _facts(derived: Derived) -> list[str]:
    """What heads say of how they were made, numbers and words only, first seed."""
    rows = []
    for name, runs in derived.runs[None].items():
        facts = {key: value for key, value in runs[0].get("head", {}).items() if isinstance(value, (int, float, str))}
        words = (
            f"{key.replace('_', ' ')} {value if isinstance(value, str) else format(value, '.4g')}"
            for key, value in facts.items()
        )
        rows += [f"* {name}, first seed: {', '.join(words)}"] if facts else []
    return ["\n".join(rows)] if rows else []


def _support(derived: Derived) -> str:
    counts = sorted(count for count in derived.setting["test"]["per_class"]["positives"] if count)
    few = sum(count < 10 for count in counts)
    return (
        f"A label is on {counts[0]} to {counts[-1]:,} test pictures, half of them on {counts[len(counts) // 2]} or "
        f"more. Labels on fewer than ten: {few} of {len(counts)}; the figure of such a label is mostly luck."
    )


def _origin(derived: Derived) -> list[str]:
    lines = [line for methods in derived.runs.values() for runs in methods.values() for line in runs]
    setting = derived.setting

    def told(key: str) -> str:
        return ", ".join(sorted({str(line[key]) for line in lines}))

    days = sorted({line["time"][:10] for line in lines})
    versions = ", ".join(f"{name} {number}" for name, number in setting["versions"].items())
    failed = {line["variant"]: line["error"] for line in derived.failures}
    blocks = ["\n".join(f"* Not measured: {name}: {error}" for name, error in failed.items())] if failed else []
    return [
        *blocks,
        f"Commit {told('commit')}; {told('machine')}; {' to '.join(dict.fromkeys((days[0], days[-1])))}; {versions}. "
        f"Encoder {setting['encoder']['fingerprint']}, data {', '.join(setting['data']['sources'])} "
        f"({setting['data']['digest'][:16]}). Raw lines: `results.jsonl`; intervals and curves: `statistics.json`.",
    ]
