"""The bulk tool: inputs to rows in one stream, or as a job."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]

from mlclip_client import ray_engine
from mlclip_client.asks import open_asks
from mlclip_client.errors import ClientError, ServerUnavailable
from mlclip_client.events import tell
from mlclip_client.findings import Findings
from mlclip_client.inputs import Found, Limits, Reader, find_inputs
from mlclip_client.inputs.item import Item
from mlclip_client.jobs.folder import Counts, Job
from mlclip_client.jobs.run import Doing, Limit, retry, work
from mlclip_client.labeller import Labeller, Pin, check_pins, pins
from mlclip_client.ordered import ordered
from mlclip_client.outputs import open_writer, replacing
from mlclip_client.rows import Row, RowOptions, schema, without_filling
from mlclip_client.settings import Asking, OnRay, Summary, Wanted, Watching
from mlclip_client.texts import Texts
from mlclip_client.values import HeadInfo
from mlclip_client.watch import Figures, metrics, shown

AGAIN = frozenset({"download", "read", "unavailable", "busy", "deadline", "server"})
"""Kinds of errors that another try may mend."""


def run_stream(wanted: Wanted, asking: Asking, watching: Watching, out: str) -> Summary:
    """Label inputs and write one row each, in their order.

    Args:
        wanted: what.
        asking: how.
        watching: who looks on.
        out: a .parquet or .jsonl path, or `-` for JSON lines on stdout.

    Raises:
        ClientError: there are no inputs, or the server cannot be asked at all.
        ValueError: an argument makes no sense.
    """
    summary = Summary(found=Found())
    items = _items(wanted, summary)
    with _setup(wanted, asking, Findings(), summary) as (labeller, heads):
        fields = schema(heads, wanted.columns)
        with (
            metrics(
                watching.metrics_port, watching.metrics_host, Figures(summary.tally, labeller.client, labeller.findings)
            ),
            open_writer(out, fields) as write,
            shown(summary.tally, None) as advance,
        ):
            try:
                for row in ordered(labeller.label, items, asking.concurrency):
                    write(row)
                    summary.tally.add(row)
                    advance()
            except KeyboardInterrupt:
                summary.interrupted = True
    return summary


def run_job(
    folder: Path,
    wanted: Wanted,
    asking: Asking,
    watching: Watching,
    shard_rows: int,
    most_failures: int,
    cluster: OnRay | None = None,
) -> Summary:
    """Begin a job, or go on with it.

    Args:
        folder: of the job.
        wanted: what; a job that goes on needs neither names nor heads.
        asking: how.
        watching: who looks on.
        shard_rows: inputs a shard, for a new job.
        most_failures: errors in a row after which the job stops; 0: never.
        cluster: does the work; None: this process does.

    Raises:
        ClientError: see `run_stream`; the job holds something else; nobody answers for longer than `patience`.
    """
    with Job(folder) as job:
        known, summary = job.asked, Summary()
        if known is not None and not wanted.names:
            wanted = replace(wanted, limits=replace(wanted.limits, max_bytes=known["max_bytes"]))
        wanted = _as_known(wanted, known)

        def items() -> Iterator[Item]:
            summary.found = Found()
            return _items(wanted, summary)

        with _setup(wanted, asking, Findings(folder / "findings.sqlite"), summary) as (labeller, heads):
            asked = {**_plain(wanted), "heads": {name: asdict(pin) for name, pin in pins(heads).items()}}
            job.begin(asked, items, shard_rows, lambda count: tell("planned", inputs=count))
            _work(job, labeller, heads, wanted, asking, watching, summary, most_failures, None, cluster)
        return summary


def run_retry(
    folder: Path, kinds: frozenset[str], limits: Limits, asking: Asking, watching: Watching, most_failures: int
) -> Summary:
    """Label those inputs of a job again that ended with an error.

    Args:
        folder: of a job that has begun.
        kinds: of errors.
        limits: of reading.
        asking: how.
        watching: who looks on.
        most_failures: see `run_job`.

    Raises:
        ClientError: there is no job, or see `run_job`.
    """
    with Job(folder) as job:
        job.plan.count  # noqa: B018  raises where there is no job
        wanted, summary = _as_known(Wanted((), limits=limits), job.asked), Summary()
        with _setup(wanted, asking, Findings(folder / "findings.sqlite"), summary) as (labeller, heads):
            begun = {name: Pin(**pin) for name, pin in (job.asked or {})["heads"].items()}
            check_pins(begun, pins(heads))
            _work(job, labeller, heads, wanted, asking, watching, summary, most_failures, kinds)
        return summary


def merge(folder: Path, out: str) -> None:
    """Write all rows of a job's finished shards into one file, in the order of its inputs.

    Args:
        folder: of the job.
        out: see `run_stream`.
    """
    with Job(folder) as job:
        tables = job.tables()
        first = next(tables, None)
        if first is None:
            raise ClientError(f"{folder} has no finished shard yet")
        if Path(out).suffix == ".parquet":
            with replacing(Path(out)) as temporary, pq.ParquetWriter(temporary, first.schema) as writer:
                for table in chain([first], tables):
                    writer.write_table(table)
            return
        with open_writer(out, first.schema) as write:
            for table in chain([first], tables):
                for row in table.to_pylist():
                    write(without_filling(row))


@contextlib.contextmanager
def _setup(
    wanted: Wanted, asking: Asking, findings: Findings, summary: Summary
) -> Iterator[tuple[Labeller, tuple[HeadInfo, ...]]]:
    with findings, Reader(wanted.limits) as reader, open_asks(wanted, asking) as client:
        heads = client.asked_heads()
        if wanted.texts is not None and not any(info.reads_text for info in heads):
            raise ValueError(f"--texts: no head among {', '.join(info.name for info in heads)} reads text")
        yield Labeller(client, reader, findings, wanted.columns), heads
        summary.saved, summary.retries = findings.saved, client.transport.retries


def _work(
    job: Job,
    labeller: Labeller,
    heads: tuple[HeadInfo, ...],
    wanted: Wanted,
    asking: Asking,
    watching: Watching,
    summary: Summary,
    most_failures: int,
    kinds: frozenset[str] | None,
    cluster: OnRay | None = None,
) -> None:
    tally, total = summary.tally, job.plan.count
    labeller = replace(labeller, pinned=pins(heads), goes_on=False)
    before = job.total()
    done, expected = (before.rows, total) if kinds is None else (0, _matching(before, kinds))
    figures = Figures(tally, labeller.client, labeller.findings)
    with metrics(watching.metrics_port, watching.metrics_host, figures), shown(tally, expected, done) as advance:

        def after_each(row: Row) -> None:
            tally.add(row)
            advance()
            if row["error_kind"]:
                tell("input failed", path=row["path"], kind=row["error_kind"], error=row["error"])

        def after_shard(shard: int, counts: Counts) -> None:
            tell("shard written", shard=shard, rows=counts.rows, errors=counts.errors)

        def after_ray(done: ray_engine.Done) -> None:
            tally.add_shard(done.rows, [(kind, error) for _, kind, error in done.failures])
            labeller.findings.saved += done.saved
            labeller.client.transport.retries += done.retries
            advance()
            for path, kind, error in done.failures:
                tell("input failed", path=path, kind=kind, error=error)
            errors = Counter(kind for _, kind, _ in done.failures)
            tell("shard written", shard=done.shard, rows=done.rows, errors=errors, node=done.node)

        limit, fields = Limit(most_failures), schema(heads, wanted.columns)
        doing = Doing(labeller.label, fields, limit, asking.concurrency, after_each, after_shard)
        try:
            if cluster is not None:
                sent = ray_engine.Doing(wanted, asking, pins(heads), fields, most_failures)
                ray_engine.work_on_ray(job, sent, cluster, after_ray)
            elif kinds is None:
                work(job, doing)
            else:
                retry(job, kinds, doing)
        except KeyboardInterrupt:
            summary.interrupted = True
        except ServerUnavailable as error:
            raise ServerUnavailable(f"{error}; what is done is kept: the same command goes on") from error
    summary.job = (job.total(), total)


def _matching(counts: Counts, kinds: Iterable[str]) -> int:
    return sum((counts.errors or {}).get(kind, 0) for kind in kinds)


def _items(wanted: Wanted, summary: Summary) -> Iterator[Item]:
    """All inputs; raises before anything is asked where there is none."""
    found = summary.found
    assert found is not None
    items = find_inputs(wanted.names, wanted.inputs, found)
    if wanted.names != ("-",):  # of a pipe nothing is read ahead
        first = next(items, None)
        if first is None:
            raise ClientError(f"no images found; {found}")
        items = chain([first], items)
    if wanted.texts is not None:
        summary.texts = Texts(wanted.texts)
        return summary.texts.join(items)
    return items


def _as_known(wanted: Wanted, known: dict[str, Any] | None) -> Wanted:
    """What is wanted, with what a job that goes on knows itself."""
    if known is None:
        return wanted
    names, heads = wanted.names or tuple(known["inputs"]), wanted.heads or tuple(known["heads"])
    if wanted.names:
        return replace(wanted, heads=heads)
    texts = known["texts"] and Path(known["texts"])
    return replace(wanted, names=names, heads=heads, columns=RowOptions(**known["columns"]), texts=texts)


def _plain(wanted: Wanted) -> dict[str, Any]:
    """What rows depend on, for job.json."""
    return {
        "inputs": list(wanted.names),
        "folder": os.getcwd(),
        "columns": asdict(wanted.columns),
        "texts": wanted.texts and os.fspath(wanted.texts),
        "max_bytes": wanted.limits.max_bytes,
    }
