"""The readable report, `load.md`: what was measured, where time goes, and how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlclip.errors import ResultsError
from mlclip.json_lines import Line
from mlclip_bench.load.derive import PERCENTILES, Row, closed_rows, open_rows
from mlclip_bench.load.search import Bracket, bracket, judge

_MIB = 2**20
_ALONE = 0.25
READING = """\
## How to read this

* Throughput and latency are of the last three windows. **Stable** is perf_analyzer's word: of three windows in a
  row, the largest throughput and the largest mean latency are at most 10 % above the smallest. A level that never
  got there keeps its figures and says `no`. The closed loop goes on until it is there. An open loop with a target ends
  as soon as three windows in a row hold the target or none of them does, stable or not: images that come at random
  queue now more and now less, so mean latency may move by more than 10 % from window to window at the same rate.
* An answer counts in the window in which it comes, whenever its image came. So a level can answer more than came, where
  more images were under way when the last three windows began than when they ended.
* Closed loop: so many askers, each waits for its answer before it sends the next image. Open loop: images come as a
  Poisson process, given how many come in a window; latency counts from the moment at which an image came, so a
  server or client that falls behind cannot hide it.
* Percentiles come from a histogram with bins of 1 %, so they are right to half a percent. Failed requests have no
  latency; they are counted as errors. `unanswered` were under way when the last window ended.
* `late` is by how much the generator itself woke up late, in the mean. Where its process filled a core, or was late
  by more than a tenth of the latency, the row says `client`: the server may be better than these figures.
* CPU is in cores (CPU seconds a second). `others` are programs besides server and client; what they take, the server
  lacks. Memory is the sum of resident pages over the server's processes, shared pages counted once each; the
  client's includes the bench around it. `machine %` is how busy the server's machine is, as Triton's metrics say. Of a
  server that was running already only that is known; measure on one that nobody else asks.
* `load.csv`, `load.rates.csv` and `load.models.csv` have perf_analyzer's columns, in microseconds. Of an ensemble,
  Triton counts the computing of its steps, even of those that run side by side, but not their queues: those stand
  with the models.
"""


def write_report(rows: Sequence[Row], lines: Sequence[Line], target: float | None, folder: Path) -> Path:
    """Write `load.md`.

    Args:
        rows: what was derived.
        lines: the raw lines behind it.
        target: the latency target in seconds, or None.
        folder: where to.

    Raises:
        ResultsError: the folder is not writable.
    """
    parts = ["# The server under load\n", _head(lines), "![throughput and latency](load.png)\n"]
    if target is not None and open_rows(rows):
        parts.append(f"{say_bracket(bracket(open_rows(rows), target), target)}\n")
    if closed := closed_rows(rows):
        parts.append(f"## Closed loop\n\n{_levels(closed, None)}")
    if opened := open_rows(rows):
        parts.append(f"## Open loop\n\n{_levels(opened, target)}")
    parts += [_errors(rows), _split(rows, target), READING]
    path = folder / "load.md"
    try:
        path.write_text("\n".join(part for part in parts if part), encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return path


def say_bracket(found: Bracket, target: float) -> str:
    """The answer to the search in a sentence or two."""
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


def _head(lines: Sequence[Line]) -> str:
    setting, last = lines[-1]["setting"], lines[-1]["provenance"]
    asked, images, pace = setting["questions"], setting["images"], setting["pace"]
    commits = ", ".join(dict.fromkeys(line["provenance"]["commit"] for line in lines))
    place = "started here, on the same machine as the client" if setting["started_here"] else "running already"
    return (
        f"Heads {', '.join(asked['heads'])} of `{Path(setting['server']).name}` ({place}), asked by the asyncio client "
        f"via {asked['via']}; {images['count']} images of {images['mean_bytes'] / 1000:.1f} kB in the mean. Windows of "
        f"at least {pace['window']:g} s and {pace['requests']} images (open loop {pace['arrivals']}). "
        f"Client's machine: {last['machine']}; "
        f"commit {commits}, {last['time'][:10]}.\n"
    )


def _levels(rows: Sequence[Row], target: float | None) -> str:
    opened = bool(open_rows(rows))
    header = ["images/s that come" if opened else "concurrency", "answered/s", "mean ms"]
    header += [f"p{percent}" for percent in PERCENTILES]
    header += ["stable", "errors"] + (["unanswered", "target"] if opened else [])
    header += ["late ms", "server cores", "MiB", "client cores", "MiB", "others", "machine %"]
    table = [header]
    for row in rows:
        cells = [f"{row.level:g}", f"{row.total.throughput:.1f}", _number(row.mean, 1000)]
        cells += [_ms(row, percent) for percent in PERCENTILES]
        cells += ["yes" if row.stable else f"no, {row.windows} windows", str(row.errors)]
        if opened:
            cells += [str(row.unanswered), "" if target is None else str(judge(row, target))]
        cells += [f"{1000 * row.lag:.1f}{' client' if row.generator_bound else ''}", *_used(row)]
        table.append(cells)
    return _table(table)


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


def _errors(rows: Sequence[Row]) -> str:
    table = [["level", "error", "how many", "its last message"]]
    for row in rows:
        for kind, count in row.total.errors.items():
            table.append([str(row.load), kind, str(count), row.messages.get(kind, "").replace("|", "\\|")])
    return f"## Errors\n\n{_table(table)}" if len(table) > 1 else ""


def _split(rows: Sequence[Row], target: float | None) -> str:
    """Queue and computing by model, for the fullest level of the closed loop and the highest rate that holds."""
    shown = []
    if closed := [row for row in closed_rows(rows) if row.total.answered]:
        shown.append(max(closed, key=lambda row: row.total.throughput))
    if target is not None and (low := bracket(open_rows(rows), target).low):
        shown.append(low)
    parts = []
    for row in shown:
        table = [["model", "images", "batch", "queue ms", "input ms", "infer ms", "output ms", "on the server, ms"]]
        for name, counters in {**row.composing(), **row.asked()}.items():
            times = [
                f"{counters.mean_us(f'{part}_ns') / 1000:.2f}"
                for part in ("queue", "input", "infer", "output", "success")
            ]
            table.append([f"`{name.partition('/')[0]}`", str(counters.inferences), f"{counters.batch:.2f}", *times])
        parts.append(f"At {row.load}, means a request:\n\n{_table(table)}")
    return "## Where time goes on the server\n\n" + "\n".join(parts) if parts else ""


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body]) + "\n"


def _ms(row: Row, percent: float) -> str:
    return _number(row.percentile(percent), 1000)


def _number(value: float | None, factor: float = 1.0, digits: int | None = None) -> str:
    if value is None:
        return "-"
    value *= factor
    return f"{value:,.{digits}f}" if digits is not None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"
