"""Jobs from beginning to end, on either engine: this process, or a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mlclip_client.bulk.labeller import Pin, check_pins, pins
from mlclip_client.bulk.request import JobOptions, MonitorOptions, Request, ServerOptions, Summary
from mlclip_client.bulk.stream import Run, begun, find
from mlclip_client.errors import ServerUnavailable
from mlclip_client.events import tell
from mlclip_client.inputs import Limits
from mlclip_client.inputs.item import Item
from mlclip_client.jobs.folder import Counts, Job
from mlclip_client.jobs.ray import ShardResult, WorkerSpec, work_on_ray
from mlclip_client.jobs.worker import Kinds, Limit, WorkerContext, claimed, work
from mlclip_client.output.cache import AnswerCache
from mlclip_client.output.rows import KINDS, Row, RowOptions

AGAIN = frozenset({"download", "read", "unavailable", "busy", "deadline", "server"})
"""Kinds of errors that another try may mend."""


def run_job(
    folder: Path,
    wanted: Request,
    asking: ServerOptions,
    watching: MonitorOptions,
    working: JobOptions,
    options: dict[str, Any],
) -> Summary:
    """Begin a job, or go on with it.

    Args:
        folder: of the job.
        wanted: what; a job that goes on needs neither names nor heads.
        asking: how.
        watching: who looks on.
        working: where, and for how long.
        options: what a new job remembers for commands that go on with it, plain JSON values.

    Raises:
        ClientError: see `run_stream`; the job holds something else; nobody answers for longer than `retry_seconds`.
        ValueError: an argument makes no sense.
    """
    with Job(folder, new=True) as job:
        known, summary, here = job.asked, Summary(), os.getcwd()
        if known is not None:
            here = here if wanted.names else known["folder"]
            names, heads = wanted.names or tuple(known["inputs"]), wanted.heads or tuple(known["heads"])
            wanted = replace(wanted, names=names, heads=heads)
        with begun(wanted, asking, watching, _findings(folder), summary) as run:

            def items() -> Iterator[Item]:
                return find(wanted, summary)

            if known is not None and set(known["heads"]) == {info.name for info in run.heads}:
                _check_pins(known, run)
            asked = _asked(run, here) | {"options": options}
            job.begin(asked, items, run.wanted.shard_rows, lambda count: tell("planned", inputs=count))
            _work(job, run, working)
        return summary


def run_retry(
    folder: Path,
    kinds: frozenset[str],
    limits: Limits,
    asking: ServerOptions,
    watching: MonitorOptions,
    working: JobOptions,
) -> Summary:
    """Label those inputs of a job again that ended with an error.

    Args:
        folder: of a job that has begun.
        kinds: of errors.
        limits: of reading.
        asking: how.
        watching: who looks on.
        working: where, and for how long.

    Raises:
        ClientError: there is no job, or see `run_job`.
        ValueError: there are no errors of such a kind.
    """
    if unknown := kinds - KINDS:
        raise ValueError(f"--kind {', '.join(sorted(unknown))}: errors are of the kinds {', '.join(sorted(KINDS))}")
    with Job(folder) as job:
        known, summary = job.asked or {}, Summary()
        wanted = Request((), tuple(known["heads"]), RowOptions(**known["columns"]), limits=limits)
        with begun(wanted, asking, watching, _findings(folder), summary) as run:
            _check_pins(known, run)
            _work(job, run, working, kinds)
        return summary


def _work(job: Job, run: Run, working: JobOptions, kinds: Kinds = None) -> None:
    """Do what is to be done, on the engine that is asked for."""
    before, inputs = job.total(), job.plan.count
    if kinds is None:
        done, total = before.rows, inputs
    else:
        done, total = 0, sum(count for kind, count in (before.errors or {}).items() if kind in kinds)
    engine = _work_on_ray if working.engine == "ray" else _work_here
    with run.watched(total, done) as after_each:
        try:
            engine(job, run, working, kinds, after_each)
        except ServerUnavailable as error:
            raise ServerUnavailable(f"{error}; what is done is kept: the same command goes on") from error
    run.summary.job = (job.total(), inputs)


def _work_here(job: Job, run: Run, working: JobOptions, kinds: Kinds, after_each: Callable[[Row], None]) -> None:
    def after_shard(shard: int, counts: Counts) -> None:
        tell("shard written", shard=shard, rows=counts.rows, errors=counts.errors)

    label = replace(run.labeller, pinned=pins(run.heads), goes_on=False).label
    limit = Limit(working.max_failures)
    doing = WorkerContext(label, run.schema, limit, run.asking.concurrency, after_each, after_shard)
    work(job, claimed(job, kinds), kinds, doing)


def _work_on_ray(job: Job, run: Run, working: JobOptions, kinds: Kinds, after_each: Callable[[Row], None]) -> None:
    def after_shard(done: ShardResult) -> None:
        run.labeller.findings.saved += done.saved
        run.labeller.client.transport.retries += done.retries
        for row in done.outcomes:
            after_each(row)
        tell("shard written", shard=done.shard, rows=done.rows, errors=done.errors, node=done.node)

    orders = WorkerSpec(run.wanted, run.asking, pins(run.heads), run.schema, working.max_failures, kinds)
    work_on_ray(job, orders, working, after_shard)


def _findings(folder: Path) -> AnswerCache:
    return AnswerCache(folder / "findings.sqlite")


def _check_pins(known: dict[str, Any], run: Run) -> None:
    check_pins({name: Pin(**pin) for name, pin in known["heads"].items()}, pins(run.heads))


def _asked(run: Run, here: str) -> dict[str, Any]:
    """What rows depend on, for job.json; `here` is the folder that names of inputs start from."""
    wanted = run.wanted
    return {
        "inputs": list(wanted.names),
        "folder": here,
        "columns": asdict(wanted.columns),
        "manifests": {"column": wanted.inputs.column, "nul": wanted.inputs.null},
        "texts": wanted.texts and os.fspath(wanted.texts.absolute()),
        "max_bytes": wanted.limits.max_bytes,
        "shard_rows": wanted.shard_rows,
        "heads": {name: asdict(pin) for name, pin in pins(run.heads).items()},
    }
