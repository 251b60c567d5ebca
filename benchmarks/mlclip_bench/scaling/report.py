"""The report of a run, in Markdown: what was measured, how it grows, whether that is what is claimed, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlclip.errors import ResultsError
from mlclip_bench.scaling.derive import Derived
from mlclip_bench.scaling.pictures import NAME
from mlclip_bench.scaling.rounds import ACCURACY
from mlclip_bench.scaling.statistics import Estimate

FILE = "report.md"
NEAR = 0.05
"""An exponent whose interval comes this near to the claimed one is told as claimed."""


def write_report(derived: Derived, batch: int) -> Path:
    """Write `report.md`; tables of growth are of one batch size, all points stand at the end.

    Raises:
        ResultsError: the folder is not writable.
    """
    path = derived.raw.folder / FILE
    try:
        path.write_text("\n".join(_lines(derived, batch)) + "\n", encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def _lines(derived: Derived, batch: int) -> Iterator[str]:
    setting, asked = derived.raw.setting, derived.asked
    encoder = asked["encoder"]
    yield "# Cost against the number of classes\n"
    yield (
        f"Commit {setting['commit']}, {setting['time']}, {setting['machine']}, through {_through(asked)}, "
        f"float32. Encoder {encoder['tag']} ({encoder['size']} pixels, T = {encoder['T']} tokens, "
        f"E = {encoder['W']}, D = {encoder['D']}); decoders have 2 layers, 4 attention heads and a feed-forward width "
        "of 2048. All weights are random, which speed does not depend on. Every graph was compared with torch first.\n"
    )
    if not derived.raw.of("end"):
        yield "**Stopped before its end**: what follows is what was measured until then.\n"
    yield f"![latency over the number of classes]({NAME}.png)\n"
    yield f"## Growth, head alone, batch {batch}\n"
    yield from _growth_table(derived, batch)
    yield ""
    yield from _reading(derived, batch)
    yield from _claims(derived, batch)
    yield "\n## All points\n"
    yield from _points_table(derived)
    yield from _left(derived)
    yield from _notes(derived)


def _growth_table(derived: Derived, batch: int) -> Iterator[str]:
    growths = {title: derived.growth(title, batch) for title in derived.titles}
    ratios = sorted({name for growth in growths.values() for name in growth.get("ratios", {})}, key=_largest)
    columns = " | ".join("N = " + name.replace("/", " : ") for name in ratios)
    yield f"| | claimed | {columns} | exponent | as dear as the encoder at |"
    yield f"| --- | --- |{' ---: |' * (len(ratios) + 2)}"
    for title, growth in growths.items():
        if growth:
            cells = [_times(growth["ratios"].get(name)) for name in ratios]
            cells = [title, derived.claims[title], *cells, _exponent(growth), _meeting(growth)]
            yield f"| {' | '.join(cells)} |"


def _reading(derived: Derived, batch: int) -> Iterator[str]:
    encoder = derived.encoder(batch)
    if encoder is not None:
        yield (
            f"The encoder takes {_ms(encoder.latency)} ms a batch of {batch}. A ratio says how much longer the head "
            "alone takes; what a service gains or loses is in the columns *with encoder* below.\n"
        )


def _claims(derived: Derived, batch: int) -> Iterator[str]:
    """Each claim of growth beside what was measured and what arithmetic says."""
    yield "## The claims\n"
    for title in derived.titles:
        growth = derived.growth(title, batch)
        if "exponent" not in growth:
            continue
        name = max(growth["ratios"], key=_largest)
        most, least = (int(n) for n in name.split("/"))
        graphs = [derived.graphs.get(derived.cases(title)[n], {}) for n in (least, most)]
        flops, held = (_ratio(graphs, key) for key in ("flops", "parameters"))
        groups = [int(key.rpartition("-k")[2]) for key in derived.cases(title).values() if "-k" in key]
        clamped = derived.claims[title] == "O(K)" and min(groups) < max(groups)
        verdict = (
            f", with K growing from {min(groups)} to {max(groups)}"
            if clamped
            else _verdict(derived.claims[title], growth["exponent"])
        )
        yield (
            f"* {title}, claimed {derived.claims[title]}: exponent {_exponent(growth)}{verdict}. From N = {least:,} to "
            f"{most:,} it takes {_times(growth['ratios'][name])} the time for {flops} the FLOPs and {held} the weights."
        )
    yield (
        "\nWhere time grows less than FLOPs, a cost that N does not change covers the growth: at small N a decoder "
        "mostly works on the image's tokens. Where it grows more, memory traffic does it: the group layer reads N · E "
        "weights a batch however few groups there are, and attention between N queries writes N² numbers a head. So no "
        "exponent belongs to all N; one over larger N is nearer to the claim.\n"
    )


def _verdict(claim: str, exponent: Mapping[str, Any]) -> str:
    expected = {"O(K)": 0.0, "O(N)": 1.0, "O(N²)": 2.0}.get(claim)
    if expected is None:
        return ""
    if exponent["low"] - NEAR <= expected <= exponent["high"] + NEAR:
        return ", as claimed"
    return f", {'less' if exponent['high'] < expected else 'more'} than the {expected:g} that is claimed"


def _points_table(derived: Derived) -> Iterator[str]:
    yield (
        "| | N | batch | ms | ± | p95 ms | spread | images/s | with encoder ms | with encoder images/s | peak MB | "
        "parameters | MFLOP an image | file MB | export s | load ms |"
    )
    yield "| --- |" + " ---: |" * 15
    everything = derived.to_dict()
    rows = [("the encoder", None, point) for point in everything["encoder"].values()]
    rows += [(one["title"], point["classes"], point) for one in everything["series"] for point in one["points"]]
    for title, classes, point in rows:
        yield _row(title, classes, point)
    whole = (
        "one request to the ensemble"
        if derived.asked["through"] == "triton"
        else "the sum of both, measured in the same rounds"
    )
    yield (
        f"\nms: geometric mean over rounds of the median call; ±: half of its 95 % interval, *unstable* from "
        f"{100 * ACCURACY:g} % on; spread: half of the quartiles' distance over all calls. *With encoder* is {whole}. "
        "Peak: resident memory above that of the empty process, with weights."
    )
    if derived.asked["through"] == "triton":
        yield (
            "Memory and load time are those of the served files in a process of their own; export time is that of "
            "`mlclip-export`, with its comparison with torch."
        )


def _row(title: str, classes: int | None, point: Mapping[str, Any]) -> str:
    interval = point["latency_ms"]
    half = (interval["high"] - interval["low"]) / 2 / interval["value"] if interval["high"] else None
    width = "one round" if half is None else f"{100 * half:.1f} %" + ("" if point["stable"] else " *unstable*")
    whole, rate = point["end_to_end_ms"], point["end_to_end_images_per_second"]
    cells = [
        title,
        "" if classes is None else f"{classes:,}",
        str(point["batch"]),
        _short(interval["value"]),
        width,
        _short(point["p95_ms"]),
        f"{100 * point['dispersion']:.1f} %",
        _short(point["images_per_second"]),
        _short(whole["value"]) if whole else "",
        _short(rate) if rate else "",
        _short(point["peak_bytes"] / 1e6) if point["peak_bytes"] is not None else "",
        f"{point['parameters']:,}" if "parameters" in point else "",
        _short(point["flops"] / 1e6) if "flops" in point else "",
        _short(point["file_bytes"] / 1e6) if "file_bytes" in point else "",
        _short(point["export_seconds"]) if "export_seconds" in point else "",
        _short(1e3 * point["load_seconds"]) if "load_seconds" in point else "",
    ]
    return f"| {' | '.join(cells)} |"


def _left(derived: Derived) -> Iterator[str]:
    lines = derived.raw.of("left")
    if lines:
        yield "\n## Not measured\n"
    for line in lines:
        yield f"* {line['title']}{', N = ' + format(line['classes'], ',') if line['classes'] else ''}: {line['why']}"


def _notes(derived: Derived) -> Iterator[str]:
    """What a reader must know of the lines that are there."""
    asked, titles = derived.asked, " ".join(derived.titles)
    notes = {
        "mld, K": "K is never above N, so `mld, K = 100` is K = N where N is below 100.",
        "references": f"Neighbour heads hold {asked['references']:,} references.",
        "label sets of real data": f"Label sets of real data: as {asked['label_sets_of']} shows them at that N.",
        "234,581": (
            "234,581 label sets for 80 classes is what the study claims for COCO. That is more sets than COCO has "
            "images, so nobody can have observed them; the line shows what they would cost."
        ),
        "self-attention": (
            "The decoder with self-attention differs from `mld, K = N` in the self-attention only. onnxruntime "
            "computes the first layer's once when it loads the graph, as its queries do not depend on the image."
        ),
    }
    yield "\n## What stands behind a line\n"
    yield from (f"* {note}" for words, note in notes.items() if words in titles)


def _through(asked: Mapping[str, Any]) -> str:
    threads, heads = asked["threads"], asked.get("head_threads", asked["threads"])
    own = "" if heads == threads else f" for the encoder, {heads} for a head"
    return f"{asked['through']}, {threads} threads{own}"


def _largest(name: str) -> int:
    return int(name.partition("/")[0])


def _ratio(graphs: Sequence[Mapping[str, Any]], key: str) -> str:
    if any(key not in graph for graph in graphs):
        return "unknown times"
    return f"{graphs[1][key] / graphs[0][key]:.3g} ×"


def _times(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return ""
    around = f" ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio["high"] else ""
    return f"{ratio['value']:.2f} ×{around}"


def _exponent(growth: Mapping[str, Any]) -> str:
    def told(found: Mapping[str, Any]) -> str:
        return (
            f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f}) over {found['from']} … {found['to']:,}"
        )

    return ", ".join(told(growth[key]) for key in ("exponent", "exponent_of_all") if key in growth)


def _meeting(growth: Mapping[str, Any]) -> str:
    found = growth.get("break_even")
    if found is None:
        return ""
    if found["classes"] is None or found["classes"] > 1e7:
        return "no N in sight"
    rounded = float(f"{found['classes']:.2g}")
    return f"N ≈ {rounded:,.0f}{' (extrapolated)' if found['extrapolated'] else ''}"


def _ms(estimate: Estimate) -> str:
    return f"{_short(estimate.value)} ({_short(estimate.low)} to {_short(estimate.high)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
