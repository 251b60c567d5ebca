"""Derive a study's table from its raw lines; nothing is measured again.

python -m mlclip_bench.report_study benchmarks/results/openclip-top46
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS: dict[str, Callable[[dict[str, Any]], float]] = {
    "test mAP": lambda m: m["mean_average_precision"],
    "P micro": lambda m: m["micro"]["precision"],
    "R micro": lambda m: m["micro"]["recall"],
    "F1 micro": lambda m: m["micro"]["f1"],
    "F1 macro": lambda m: m["macro"]["f1"],
    "ROC AUC macro": lambda m: m["roc_auc_macro"],
}


def write_report(folder: Path) -> None:
    """Write `report.md` beside the `results.jsonl` of a study: mean ± standard deviation over seeds, in percent."""
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    first = lines[0]
    variants = dict.fromkeys(line["variant"] for line in lines)
    images = ", ".join(f"{name} {count:,}" for name, count in first["data"]["images"].items())
    rows = [
        f"# {first['study']}: {folder.name}",
        "",
        f"{first['data']['classes']} classes; images: {images}; encoder `{first['encoder']}`. Test figures in percent, "
        "mean ± standard deviation over seeds; thresholds are chosen on validation. Raw lines: `results.jsonl`.",
        "",
        "| | seeds | " + " | ".join(COLUMNS) + " | CPU s |",
        "| --- |" + " ---: |" * (len(COLUMNS) + 2),
        *(_row(name, [line for line in lines if line["variant"] == name]) for name in variants),
        "",
        *_differences(lines),
        f"Prevalence (the precision of blind guessing): {100 * first['test']['prevalence']:.1f} %. "
        f"Commit {', '.join(sorted({line['commit'] for line in lines}))}; {first['machine']}; {first['time'][:10]}.",
    ]
    (folder / "report.md").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _row(name: str, lines: Sequence[dict[str, Any]]) -> str:
    seeded = "recipe" in lines[0]
    cells = []
    for column, get in COLUMNS.items():
        thresholded = column.split()[0] in ("P", "R", "F1")
        cells.append("-" if thresholded and not seeded else _mean([100 * get(line["test"]) for line in lines]))
    seconds = f"{np.mean([line['cpu_seconds'] for line in lines]):.0f}" if seeded else "-"
    return f"| {name} | {len(lines) if seeded else '-'} | {' | '.join(cells)} | {seconds} |"


def _mean(values: Sequence[float]) -> str:
    return f"{values[0]:.1f}" if len(values) < 2 else f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def _differences(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Differences in test mAP between the trained variants, paired by seed."""
    trained = [line for line in lines if "recipe" in line]
    names = list(dict.fromkeys(line["variant"] for line in trained))
    score = {(line["variant"], line["seed"]): 100 * line["test"]["mean_average_precision"] for line in trained}
    rows = []
    for one, other in combinations(names, 2):
        seeds = [seed for variant, seed in score if variant == one and (other, seed) in score]
        gaps = [score[other, seed] - score[one, seed] for seed in seeds]
        listed = ", ".join(f"{gap:+.2f}" for gap in gaps)
        rows.append(f"* {other} against {one}, test mAP by seed: {listed} (mean {np.mean(gaps):+.2f} points)")
    return [*rows, ""]


if __name__ == "__main__":
    write_report(Path(sys.argv[1]))
