"""The tables of README files, written from benchmarks/results, so that no number in them is typed by hand.

A table stands between the lines `<!-- NAME -->` and `<!-- end -->` of a Markdown file, where NAME is a key of TABLES.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlclip.console import figure_at
from mlclip.errors import ResultsError
from mlclip.heads import HEADS
from mlclip.json_lines import Line
from mlclip_bench.heads.baselines import BASELINES, REGRESSION
from mlclip_bench.heads.derive import derive
from mlclip_bench.heads.metrics import METRICS, cell
from mlclip_bench.heads.results import Results as HeadResults
from mlclip_bench.heads.studies import WITHOUT_TEXTS
from mlclip_bench.heads.tables import gap
from mlclip_bench.kit.files import read_json, read_text, write_text
from mlclip_bench.kit.markdown import number, table
from mlclip_bench.kit.store import Store
from mlclip_bench.load.define import Closed
from mlclip_bench.load.derive import Row, open_rows, rows_of
from mlclip_bench.load.report import say_bracket
from mlclip_bench.load.search import bracket
from mlclip_bench.load.sweep import Results as LoadResults
from mlclip_bench.load.windows import TOLERANCE, spreads
from mlclip_bench.peers.derive import FILE as PEERS
from mlclip_bench.scaling.derive import FILE as SCALING

_BLOCK = re.compile(r"(?P<start><!-- (?P<name>[a-z0-9 ]+) -->\n)(?P<table>.*?)(?P<end><!-- end -->)", re.DOTALL)
_SET = re.compile(r"(?P<set>[a-z]+)-top(?P<top>\d+)")
BATCH = "8"
_STABLE = (
    "*stable*: of the last three windows of a level, the largest rate answered and the largest mean latency are at "
    f"most {100 * TOLERANCE:.0f} % above the smallest; otherwise, largest over smallest."
)


def write_tables(files: Iterable[Path], results: Path) -> list[Path]:
    """Write the tables of some Markdown files again from the folder benchmarks/results; gives the files that changed.

    Raises ResultsError if a file cannot be read or written, a block has an unknown name, or its results are missing.
    """
    changed = []
    for file in files:
        before = read_text(file)
        after = _BLOCK.sub(lambda found: f"{found['start']}{_table(found['name'], results)}\n{found['end']}", before)
        if after != before:
            write_text(file, after)
            changed.append(file)
    return changed


def _table(name: str, results: Path) -> str:
    if name not in TABLES:
        raise ResultsError(f"no table is called {name!r}: choose from {', '.join(TABLES)}")
    return TABLES[name](results)


def heads(results: Path, title: str) -> str:
    """A metric of every method on every dataset."""
    folders = sorted((folder for folder in results.glob("*-top*") if _SET.fullmatch(folder.name)), key=_order)
    if not folders:
        raise ResultsError(f"{results}: there are no results of a comparison; name their folder with --results")
    columns = [_SET.sub(r"\g<set> \g<top>", folder.name) for folder in folders]
    lines = [_lines(HeadResults(folder)) for folder in folders]
    by_folder = [_values(part, title, lambda line: line["variant"]) for part in lines]
    known = [name for values in by_folder for name in values]
    names = [name for name in _ROWS if name in known]
    return table(
        [f"test {title}", *columns],
        [[_called(name), *(cell(title, values.get(name, [])) for values in by_folder)] for name in names],
    ) + _from([line for part in lines for line in part])


def regression(results: Path) -> str:
    """`sigmoid` beside logistic regression: mAP, and their difference with its interval."""
    rows, lines = [], []
    folders = {folder.name.removesuffix("-logistic"): folder for folder in sorted(results.glob("*-top*"))}
    for name in sorted(filter(_SET.fullmatch, folders), key=lambda name: _order(Path(name))):
        derived = derive(HeadResults(folders[name]))
        compared = derived.comparisons.get(None, {}).get("mean_average_precision")
        if compared and {"sigmoid", REGRESSION} <= {*compared.methods}:
            ours, theirs = (compared.methods.index(name) for name in ("sigmoid", REGRESSION))
            figures = (f"{100 * compared.estimates[n]:.1f}" for n in (ours, theirs))
            rows.append([_SET.sub(r"\g<set> \g<top>", name), *figures, gap(compared, ours, theirs)])
            lines += [line for name in ("sigmoid", REGRESSION) for line in derived.runs[None][name]]
    if not rows:
        raise ResultsError(f"{results}: no set was measured with both methods; name their folder with --results")
    return table(["test mAP", "`sigmoid`", REGRESSION, "difference"], rows) + _from(lines)


def losses(results: Path) -> str:
    """Test metrics of the heads that take any loss."""
    lines = _lines(HeadResults(results / "openclip-top46-losses"))
    titles = ("mAP", "F1 micro", "F1 macro")
    figures = {title: _values(lines, title, lambda line: line["variant"]) for title in titles}
    names = [name for name in figures["mAP"] if name not in BASELINES]
    rows = [[name, *(cell(title, figures[title][name]) for title in titles)] for name in names]
    return table(["openclip 46", *titles], rows) + _from(lines)


def shots(results: Path) -> str:
    """Test mAP against the number of training images per label."""
    lines = _lines(HeadResults(results / "openclip-top46-shots"))
    values = _values(lines, "mAP", lambda line: (line["variant"], line["shots"]))
    counts = sorted({k for _, k in values}, key=lambda k: (k is None, k or 0))
    names = [name for name in _ROWS if any(one == name for one, _ in values)]
    rows = [[_called(name), *(cell("mAP", values.get((name, k), [])) for k in counts)] for name in names]
    return table(["test mAP", *("all" if k is None else str(k) for k in counts)], rows) + _from(lines)


def rarity(results: Path) -> str:
    """Mean average precision of labels with few and with many test images."""
    lines = [line for line in _lines(HeadResults(results / "openclip-top500")) if "error" not in line]
    bins = {"1 to 2": (1, 2), "3 to 5": (3, 5), "6 to 15": (6, 15), "16 and more": (16, 10**9)}
    positives = np.array(lines[0]["test"]["per_class"]["positives"])
    masks = {title: (low <= positives) & (positives <= high) for title, (low, high) in bins.items()}
    rows = [["labels", *(str(mask.sum()) for mask in masks.values())]]
    for name in _ROWS:
        for line in lines:
            if line["variant"] == name:
                precision = np.array(line["test"]["per_class"]["average_precision"], dtype=float)
                rows.append([_called(name), *(f"{100 * precision[mask].mean():.1f}" for mask in masks.values())])
    return table(["mAP of labels with so many test images", *bins], rows) + _from(lines)


def scaling(results: Path) -> str:
    """Cost of each head at each number of classes."""
    figures = read_json(results / "scaling" / SCALING)
    asked = figures["setting"]["asked"]
    sizes = asked["classes"]
    rows = []
    for one in figures["series"]:
        points = {point["classes"]: point for point in one["points"] if str(point["batch"]) == BATCH}
        growth = one["growth"].get(BATCH, {})
        exponent = growth.get("exponent_of_all") or growth.get("exponent")
        if points:
            slope = f"{exponent['value']:.2f}" if exponent else "-"
            rows.append([one["title"], *(_cost(points.get(n)) for n in sizes), slope, _service(points)])
    encoder = figures["encoder"][BATCH]
    title = f"ms a batch of {BATCH}, head alone"
    text = table([title, *(f"N = {n:,}" for n in sizes), "exponent", "images/s with encoder"], rows)
    spec, setting = asked["encoder"], figures["setting"]
    return (
        f"{text}\n\nThe encoder ({spec['tag']}, T = {spec['T']}, E = {spec['W']}) takes "
        f"{encoder['latency_ms']['value']:.0f} ms, {encoder['images_per_second']:.1f} images/s. "
        f"Commit {setting['commit']}, {setting['machine']}, {asked['threads']} threads.\n"
    )


def peers(results: Path) -> str:
    """Throughput of mlclip and of what people would use instead."""
    figures = read_json(results / "peers" / PEERS)
    rows = []
    for peer in figures["peers"].values():
        if peer["images_per_second"] is not None:
            ratio = peer["ratio"]
            interval = f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
            interval += "" if ratio["stable"] else " ~"
            rows.append([peer["title"], f"{peer['images_per_second']['median']:.1f}", interval])
    setting = figures["setting"]
    source = {name: setting["provenance"][name] for name in ("commit", "machine")}
    text = table([f"{setting['encoder']['tag']}, from files", "images/s", "ratio to the plain loop"], rows)
    return text + _from([source])


def load(results: Path) -> str:
    """A served repository under growing load, with the rates around the highest one that holds."""
    lines = _lines(LoadResults(results / "load"))
    target = next(line["target"] for line in lines if line["target"])
    levels = rows_of(lines)
    found = bracket(open_rows(levels), target)
    rows = [row for row in levels if row.purpose == "sweep" or row in (found.low, found.high)]
    text = table(
        ["load", "answered/s", "p50 ms", "p99 ms", "stable", "server's cores"],
        [
            [
                str(row.load) + ("" if isinstance(row.load, Closed) else " come"),
                f"{row.total.throughput:.1f}",
                *(f"{1000 * (row.percentile(percent) or 0):.0f}" for percent in (50, 99)),
                _stable(row),
                f"{row.resources['server_cores'] or 0:.2f}",
            ]
            for row in rows
        ],
    )
    source = _from([line["provenance"] for line in lines])
    return f"{text}\n\n{_STABLE}\n\n{say_bracket(found, target)}{source}"


def _values(lines: Iterable[Line], title: str, key: Callable[[Line], Any]) -> dict[Any, list[float | None]]:
    """A metric's values over seeds, by what `key` takes from a line; a single one if all seeds gave the same."""
    found: dict[Any, list[float | None]] = {}
    for line in lines:
        if "error" not in line:
            found.setdefault(key(line), []).append(figure_at(line["test"], METRICS[title]))
    return {name: values[:1] if len(set(values)) == 1 else values for name, values in found.items()}


def _from(lines: Sequence[Line]) -> str:
    commits = list(dict.fromkeys(line["commit"] for line in lines))
    machines = list(dict.fromkeys(line["machine"] for line in lines))
    return f"\n\nCommit{'s' if len(commits) > 1 else ''} {', '.join(commits)}; {'; '.join(machines)}.\n"


def _lines(results: Store) -> list[Line]:
    found = results.latest()
    if not found:
        raise ResultsError(f"{results.path}: there are no results; --results names the folder that holds all of them")
    return found


def _order(folder: Path) -> tuple[int, int]:
    found = _SET.fullmatch(folder.name)
    assert found is not None
    return ("openclip", "emojikw", "scenes").index(found["set"]), int(found["top"])


def _called(name: str) -> str:
    return f"`{name}`" if name in HEADS else name


def _cost(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return "-"
    return number(point["latency_ms"]["value"]) + ("" if point["stable"] else " ~")


def _stable(row: Row) -> str:
    if row.stable:
        return "yes"
    ratios = dict(zip(("rate", "latency"), spreads(row.last) or (), strict=False))
    return ", ".join(["no", *(f"{what} × {ratio:.2f}" for what, ratio in ratios.items() if ratio > 1 + TOLERANCE)])


def _service(points: Mapping[int, Mapping[str, Any]]) -> str:
    rates = [point["end_to_end_images_per_second"] for point in points.values()]
    return " … ".join(dict.fromkeys(f"{rate:.3g}" for rate in (max(rates), min(rates)) if rate))


_ROWS = [
    *(name for head in HEADS for name in ([head, *WITHOUT_TEXTS] if head == "fusion" else [head])),
    *reversed(list(BASELINES)),
]
TABLES: Mapping[str, Callable[[Path], str]] = {
    "heads map": lambda results: heads(results, "mAP"),
    "heads f1": lambda results: heads(results, "F1 micro"),
    "rarity": rarity,
    "regression": regression,
    "losses": losses,
    "shots": shots,
    "scaling": scaling,
    "load": load,
    "peers": peers,
}
