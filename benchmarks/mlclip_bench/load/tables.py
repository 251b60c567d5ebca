"""CSV tables with the columns of perf_analyzer, so that both can be compared.

Times are in microseconds, as there. Two things differ. Our client does not time its own sending and receiving: they
are part of `Network+Server Send/Recv`, while `Client Send` and `Client Recv` are 0. Latencies of the open loop count
from the intended moment. Two columns are ours; perf_analyzer leaves out levels that are not stable.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from mlclip_bench.kit.files import write_text
from mlclip_bench.load.derive import PERCENTILES, Row, closed_rows, open_rows
from mlclip_bench.load.server_counters import Counters

TIMES = (
    "Client Send",
    "Network+Server Send/Recv",
    "Server Queue",
    "Server Compute Input",
    "Server Compute Infer",
    "Server Compute Output",
    "Client Recv",
)
LEVEL = {"closed": "Concurrency", "open": "Request Rate"}
OWN = ("Stable", "Errors")


def columns(mode: str) -> list[str]:
    """The header: perf_analyzer's columns, then ours."""
    return [LEVEL[mode], "Inferences/Second", *TIMES, *(f"p{percent} latency" for percent in PERCENTILES), *OWN]


def write_tables(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write `load.csv` (closed loop), `load.rates.csv` (open loop), and `load.models.csv` (the models behind both)."""
    tables = {}
    if closed := closed_rows(rows):
        tables["load.csv"] = [columns("closed"), *map(level_cells, closed)]
    if opened := open_rows(rows):
        tables["load.rates.csv"] = [columns("open"), *map(level_cells, opened)]
    models = [cells for row in rows for cells in model_cells(row)]
    if models:
        header = ["Model", *LEVEL.values(), "Inferences/Second", *TIMES, "Batch"]
        tables["load.models.csv"] = [header, *models]
    return [write_text(folder / name, _csv(table)) for name, table in tables.items()]


def level_cells(row: Row) -> list[str]:
    """A level in the columns of `columns`; for several ensembles, asked one after the other, the sums."""
    asked = row.asked().values()
    parts = [sum(_parts(counters)[n] for counters in asked) for n in range(4)]
    latencies = [_us(row.percentile(percent)) for percent in PERCENTILES]
    network = max(0.0, (row.mean or 0.0) * 1e6 - sum(parts))
    return [
        f"{row.level:g}",
        f"{row.total.throughput:g}",
        *_times(network, parts),
        *latencies,
        "yes" if row.stable else "no",
        str(row.errors),
    ]


def model_cells(row: Row) -> list[list[str]]:
    """The models behind a level; what is neither waiting nor computing counts as network, as in perf_analyzer."""
    images = sum(counters.success for counters in row.asked().values()) / max(1, len(row.asked()))
    level = [f"{row.level:g}", ""] if row in closed_rows([row]) else ["", f"{row.level:g}"]
    table = []
    for name, counters in row.composing().items():
        parts = list(_parts(counters))
        rest = max(0.0, counters.mean_us("success_ns") - sum(parts))
        share = counters.success / images if images else 0.0
        throughput = f"{share * row.total.throughput:g}"
        table.append([name.replace("/", "_v"), *level, throughput, *_times(rest, parts), f"{counters.batch:.2f}"])
    return table


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _parts(counters: Counters) -> tuple[float, ...]:
    return tuple(counters.mean_us(field) for field in ("queue_ns", "input_ns", "infer_ns", "output_ns"))


def _times(network: float, parts: Sequence[float]) -> list[str]:
    return ["0", f"{network:.0f}", *(f"{part:.0f}" for part in parts), "0"]


def _us(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e6:.0f}"
