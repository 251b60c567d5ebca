"""The report of a run, in Markdown: what was measured, how it grows, whether that is what is claimed, and why."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlclip_bench.kit.files import write_text
from mlclip_bench.kit.intervals import Estimate
from mlclip_bench.kit.markdown import bullets, document, number, table
from mlclip_bench.scaling.derive import Derived
from mlclip_bench.scaling.figures import NAME
from mlclip_bench.scaling.rounds import ACCURACY

FILE = "report.md"
NEAR = 0.05  # an exponent whose interval comes this near to the claimed one counts as claimed
WHY = """\
Where time grows less than FLOPs, a cost that does not depend on N hides the growth: at small N a decoder mostly works \
on the image's tokens. Where it grows more, the cause is memory traffic: the group layer reads N · E weights per \
batch, however few groups there are, and attention between N queries writes N² numbers per head. So no exponent holds \
for all N; one over larger N is nearer to the claim."""
COLUMNS = (
    "", "N", "batch", "ms", "±", "p95 ms", "spread", "images/s", "with encoder ms", "with encoder images/s", "peak MB",
    "parameters", "MFLOP per image", "file MB", "export s", "load ms",
)  # fmt: skip


def write_report(derived: Derived, batch: int) -> Path:
    """Write `report.md`; tables of growth are for one batch size, all points follow at the end."""
    encoder = derived.encoder(batch)
    return write_text(
        derived.folder / FILE,
        document(
            "# Cost against the number of classes",
            _measured(derived),
            "" if derived.ended else "**Stopped before its end**: the report covers what was measured until then.",
            f"![latency over the number of classes]({NAME}.png)",
            f"## Growth, head alone, batch {batch}",
            _growth_table(derived, batch),
            "" if encoder is None else _reading(encoder.latency, batch),
            "## The claims",
            bullets(_claims(derived, batch)),
            WHY,
            "## All points",
            _points_table(derived),
            _columns(derived),
            *_skipped(derived),
            "## What the lines mean",
            bullets(_notes(derived)),
        ),
    )


def _measured(derived: Derived) -> str:
    setting, encoder = derived.setting, derived.asked["encoder"]
    return (
        f"Commit {setting['commit']}, {setting['time']}, {setting['machine']}, through {_through(derived.asked)}, "
        f"float32. Encoder {encoder['tag']} ({encoder['size']} pixels, T = {encoder['T']} tokens, "
        f"E = {encoder['W']}, D = {encoder['D']}); decoders have 2 layers, 4 attention heads and a feed-forward width "
        "of 2048. All weights are random; speed does not depend on them. Every graph was first compared with torch."
    )


def _growth_table(derived: Derived, batch: int) -> str:
    growths = {title: derived.growth(title, batch) for title in derived.titles}
    ratios = sorted({name for growth in growths.values() for name in growth.get("ratios", {})}, key=_largest)
    rows = []
    for title, growth in growths.items():
        if growth:
            cells = [_times(growth["ratios"].get(name)) for name in ratios]
            rows.append([title, derived.claims[title] or "-", *cells, _exponent(growth), _meeting(growth)])
    columns = ["N = " + name.replace("/", " : ") for name in ratios]
    return table(["", "claimed", *columns, "exponent", "as expensive as the encoder at"], rows, left=2)


def _reading(encoder: Estimate, batch: int) -> str:
    low, high = number(encoder.low), number(encoder.high)
    return (
        f"The encoder takes {number(encoder.value)} ({low} to {high}) ms per batch of {batch}. A ratio says how much "
        "longer the head alone takes; the columns *with encoder* below say what a service gains or loses."
    )


def _claims(derived: Derived, batch: int) -> Iterator[str]:
    """Each claim of growth beside what was measured and what arithmetic says."""
    for title in derived.titles:
        growth, claim = derived.growth(title, batch), derived.claims[title]
        if "exponent" not in growth:
            continue
        name = max(growth["ratios"], key=_largest)
        most, least = (int(n) for n in name.split("/"))
        graphs = [derived.graphs.get(derived.series[title][n], {}) for n in (least, most)]
        flops, weights = (_ratio(graphs, key) for key in ("flops", "parameters"))
        groups = [int(key.rpartition("-k")[2]) for key in derived.series[title].values() if "-k" in key]
        clamped = claim == "O(K)" and min(groups) < max(groups)
        verdict = (
            f", with K growing from {min(groups)} to {max(groups)}" if clamped else _verdict(claim, growth["exponent"])
        )
        yield (
            f"{title}, {f'claimed {claim}' if claim else 'no claim'}: exponent {_exponent(growth)}{verdict}. "
            f"From N = {least:,} to {most:,} it takes {_times(growth['ratios'][name])} the time for {flops} the FLOPs "
            f"and {weights} the weights."
        )


def _verdict(claim: str, exponent: Mapping[str, Any]) -> str:
    expected = {"O(K)": 0.0, "O(N)": 1.0, "O(N²)": 2.0}.get(claim)
    if expected is None:
        return ""
    if exponent["low"] - NEAR <= expected <= exponent["high"] + NEAR:
        return ", as claimed"
    return f", {'less' if exponent['high'] < expected else 'more'} than the {expected:g} that is claimed"


def _points_table(derived: Derived) -> str:
    everything = derived.to_dict()
    rows = [("the encoder", None, point) for point in everything["encoder"].values()]
    rows += [(one["title"], point["classes"], point) for one in everything["series"] for point in one["points"]]
    return table(COLUMNS, [_cells(*row) for row in rows])


def _cells(title: str, classes: int | None, point: Mapping[str, Any]) -> list[str]:
    interval, whole = point["latency_ms"], point["end_to_end_ms"]
    half = (interval["high"] - interval["low"]) / 2 / interval["value"] if interval["high"] else None
    width = "one round" if half is None else f"{100 * half:.1f} %" + ("" if point["stable"] else " *unstable*")

    def known(name: str, factor: float = 1.0) -> str:
        value = point.get(name)
        return "" if value is None else number(factor * value)

    return [
        title,
        "" if classes is None else f"{classes:,}",
        str(point["batch"]),
        number(interval["value"]),
        width,
        known("p95_ms"),
        f"{100 * point['dispersion']:.1f} %",
        known("images_per_second"),
        number(whole["value"]) if whole else "",
        known("end_to_end_images_per_second"),
        known("peak_bytes", 1e-6),
        f"{point['parameters']:,}" if "parameters" in point else "",
        known("flops", 1e-6),
        known("file_bytes", 1e-6),
        known("export_seconds"),
        known("load_seconds", 1e3),
    ]


def _columns(derived: Derived) -> str:
    served = derived.asked["through"] == "triton"
    whole = "one request to the ensemble" if served else "the sum of both, measured in the same rounds"
    text = (
        f"ms: geometric mean over rounds of the median call. ±: half of its 95 % interval; from {100 * ACCURACY:g} % "
        "on, the point is *unstable*. spread: half of the distance between the quartiles of all calls. *With encoder*: "
        f"{whole}. Peak: resident memory above that of the empty process, with weights."
    )
    if served:
        text += (
            "\nMemory and load time are those of the served files in a process of their own; export time is that of "
            "`mlclip-export`, with its comparison with torch."
        )
    return text


def _skipped(derived: Derived) -> list[str]:
    lines = [
        f"{line['title']}{', N = ' + format(line['classes'], ',') if line['classes'] else ''}: {line['why']}"
        for line in derived.skipped
    ]
    return ["## Not measured", bullets(lines)] if lines else []


def _notes(derived: Derived) -> list[str]:
    asked, titles = derived.asked, " ".join(derived.titles)
    notes = {
        "mld, K": "K is never above N, so `mld, K = 100` is K = N where N is below 100.",
        "references": f"Neighbour heads hold {asked['references']:,} references; arithmetic gives them O(R · N).",
        "powerset": (
            "The study's O(N!) and O(N) of `powerset` are numbers of label sets S. Its cost, by arithmetic O(S · N), "
            "grows with the sets that training data holds."
        ),
        "label sets of real data": f"Label sets of real data: as many as {asked['label_sets_of']} has at that N.",
        "234,581": (
            "234,581 label sets for 80 classes is what the study claims for COCO. COCO has fewer images than that, so "
            "these sets cannot have been observed; the line shows what they would cost."
        ),
        "self-attention": (
            "The decoder with self-attention differs from `mld, K = N` only in the self-attention. onnxruntime "
            "computes that of the first layer once, on loading: its queries do not depend on the image."
        ),
    }
    return [note for words, note in notes.items() if words in titles]


def _through(asked: Mapping[str, Any]) -> str:
    threads, heads = asked["threads"], asked.get("head_threads", asked["threads"])
    own = "" if heads == threads else f" for the encoder, {heads} per head"
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
