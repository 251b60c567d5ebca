"""The report, `load.md`: what was measured, where time goes, and how to read it."""

from collections.abc import Sequence
from pathlib import Path

from mlclip.json_lines import Line
from mlclip_bench.kit.files import write_text
from mlclip_bench.kit.markdown import document, number, table
from mlclip_bench.load.derive import PERCENTILES, Row, closed_rows, open_rows
from mlclip_bench.load.search import Bracket, bracket, judge

_MIB = 2**20
READING = """\
* Throughput and latency are those of the last three windows. **Stable** is perf_analyzer's rule: of three windows in
  a row, the largest throughput and the largest mean latency are at most 10 % above the smallest. A level that never
  got there keeps its values and says `no`. The closed loop continues until it is stable. An open loop with a target
  ends as soon as three windows in a row hold the target or none of them does, stable or not: images that arrive at
  random queue sometimes more and sometimes less, so mean latency may vary by more than 10 % at the same rate.
* An answer counts in the window in which it arrives, whenever its image was sent. So a level can answer more images
  than arrived, if more were under way when the last three windows began than when they ended.
* Closed loop: each client waits for its answer before it sends the next image. Open loop: images arrive as a Poisson
  process, given their number per window; latency counts from the moment at which an image arrived, so a server or
  client that falls behind cannot hide it.
* Percentiles come from a histogram with bins of 1 %, so they are right to half a percent. Failed requests have no
  latency; they count as errors. `unanswered` requests were under way when the last window ended.
* `late` is how much too late the generator itself woke up, on average. Where its process filled a core, or was late
  by more than a tenth of the latency, the row says `client`: the server may be better than these values.
* CPU is in cores (CPU seconds per second). `others` are programs besides server and client; what they take, the
  server lacks. Memory is the sum of resident pages over the server's processes, shared pages once per process;
  that of the client includes the bench. `machine %` is how busy the server's machine is, from Triton's metrics. For a
  server that was running already, only that is known; measure on one that serves nothing else.
* `load.csv`, `load.rates.csv` and `load.models.csv` have perf_analyzer's columns, in microseconds. For an ensemble,
  Triton counts the computing of its steps, even of those that run side by side, but not their queues: those are
  listed with the models."""


def write_report(rows: Sequence[Row], lines: Sequence[Line], target: float | None, folder: Path) -> Path:
    """Write `load.md` from rows and the raw lines behind them; the target is in seconds."""
    closed, opened = closed_rows(rows), open_rows(rows)
    blocks = ["# The server under load", _measured(lines), "![throughput and latency](load.png)"]
    if target is not None and opened:
        blocks.append(say_bracket(bracket(opened, target), target))
    if closed:
        blocks += ["## Closed loop", _levels(closed, None)]
    if opened:
        blocks += ["## Open loop", _levels(opened, target)]
    blocks += [*_errors(rows), *_split(rows, target), "## How to read this", READING]
    return write_text(folder / "load.md", document(*blocks))


def say_bracket(found: Bracket, target: float) -> str:
    """The result of the search in a sentence or two."""
    goal = f"99 of 100 answers within {1000 * target:g} ms"
    if found.low is None:
        least = f": not even {_failure(found.high, target)}" if found.high else ""
        return f"No rate was found that holds {goal}{least}."
    text = (
        f"**{found.low.level:g} images/s** is the highest rate measured that holds {goal} (p99 {_ms(found.low, 99)} ms)"
    )
    text += f"; {_failure(found.high, target)} did not." if found.high else "; no higher rate was tried that did not."
    if found.contradictions:
        rates = ", ".join(_failure(row, target) for row in found.contradictions)
        text += f" Below it, {rates} did not hold either, so noise is larger than the step between rates."
    return text


def _failure(row: Row | None, target: float) -> str:
    assert row is not None
    return f"{row.level:g} images/s ({judge(row, target)}, p99 {_ms(row, 99)} ms)"


def _measured(lines: Sequence[Line]) -> str:
    setting, last = lines[-1]["setting"], lines[-1]["provenance"]
    asked, images, pace = setting["questions"], setting["images"], setting["pace"]
    commits = ", ".join(dict.fromkeys(line["provenance"]["commit"] for line in lines))
    place = "started here, on the client's machine" if setting["started_here"] else "running already"
    return (
        f"Heads {', '.join(asked['heads'])} of `{Path(setting['server']).name}` ({place}), asked by the asyncio client "
        f"via {asked['via']}; {images['count']} images of {images['mean_bytes'] / 1000:.1f} kB on average. Windows of "
        f"at least {pace['window']:g} s and {pace['requests']} images (open loop {pace['arrivals']}). "
        f"Client's machine: {last['machine']}; "
        f"commit {commits}, {last['time'][:10]}."
    )


def _levels(rows: Sequence[Row], target: float | None) -> str:
    opened = bool(open_rows(rows))
    header = ["images/s that arrive" if opened else "concurrency", "answered/s", "mean ms"]
    header += [f"p{percent}" for percent in PERCENTILES]
    header += ["stable", "errors"] + (["unanswered", "target"] if opened else [])
    header += ["late ms", "server cores", "MiB", "client cores", "MiB", "others", "machine %"]
    table_rows = []
    for row in rows:
        cells = [f"{row.level:g}", f"{row.total.throughput:.1f}", _number(row.mean, 1000)]
        cells += [_ms(row, percent) for percent in PERCENTILES]
        cells += ["yes" if row.stable else f"no, {row.windows} windows", str(row.errors)]
        if opened:
            cells += [str(row.unanswered), "" if target is None else str(judge(row, target))]
        cells += [f"{1000 * row.lag:.1f}{' client' if row.generator_bound else ''}", *_used(row)]
        table_rows.append(cells)
    return table(header, table_rows, left=0)


def _used(row: Row) -> list[str]:
    used = row.resources
    return [
        _number(used["server_cores"]),
        _number(used["server_rss"], 1 / _MIB, 0),
        _number(used["client_cores"]),
        _number(used["client_rss"], 1 / _MIB, 0),
        _number(used["other_cores"]),
        _number(used["host_cpu"], 100, 0),
    ]


def _errors(rows: Sequence[Row]) -> list[str]:
    cells = [
        [str(row.load), kind, str(count), row.messages.get(kind, "").replace("|", "\\|")]
        for row in rows
        for kind, count in row.total.errors.items()
    ]
    return ["## Errors", table(["level", "error", "count", "last message"], cells, left=4)] if cells else []


def _split(rows: Sequence[Row], target: float | None) -> list[str]:
    """Queue and computing by model, for the level with the highest throughput and the highest rate that holds."""
    shown = []
    if closed := [row for row in closed_rows(rows) if row.total.answered]:
        shown.append(max(closed, key=lambda row: row.total.throughput))
    if target is not None and (low := bracket(open_rows(rows), target).low):
        shown.append(low)
    blocks = ["## Where time goes on the server"] if shown else []
    for row in shown:
        cells = []
        for name, counters in {**row.composing(), **row.asked()}.items():
            times = [
                f"{counters.mean_us(f'{part}_ns') / 1000:.2f}"
                for part in ("queue", "input", "infer", "output", "success")
            ]
            cells.append([f"`{name.partition('/')[0]}`", str(counters.inferences), f"{counters.batch:.2f}", *times])
        columns = ["model", "images", "batch", "queue ms", "input ms", "infer ms", "output ms", "on the server, ms"]
        blocks += [f"At {row.load}, means per request:", table(columns, cells)]
    return blocks


def _ms(row: Row, percent: float) -> str:
    return _number(row.percentile(percent), 1000)


def _number(value: float | None, factor: float = 1.0, digits: int | None = None) -> str:
    return "-" if value is None else number(factor * value, digits)
