"""Jobs from beginning to end: start, go on, retry; in this process or on a Ray cluster."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mlclip_client.bulk.labeller import Pin, check_pins, pins
from mlclip_client.bulk.limit import Limit
from mlclip_client.bulk.request import Request, Summary
from mlclip_client.bulk.stream import Run, find, opened
from mlclip_client.errors import KINDS, JobError, ServerUnavailable
from mlclip_client.events import tell
from mlclip_client.jobs.folder import Job
from mlclip_client.jobs.ray import work_on_ray
from mlclip_client.jobs.worker import WorkerSpec, claimed, work
from mlclip_client.options import JobOptions, Limits, MonitorOptions, RowOptions, ServerOptions
from mlclip_client.output.cache import AnswerCache

_ANSWERS = "findings.sqlite"


def run_job(
    folder: Path,
    request: Request,
    server: ServerOptions,
    monitor: MonitorOptions,
    job_options: JobOptions,
    remembered: dict[str, Any],
) -> Summary:
    """Begin a job or continue it, which needs neither inputs nor heads in the request; errors as in `run_stream`.

    A new job keeps `remembered`, options as plain JSON values, for commands that continue it.
    """
    summary = Summary()
    with Job(folder, new=True) as job:
        known, here = job.asked, os.getcwd()
        if known is not None:
            here = here if request.names else known["folder"]
            names, heads = request.names or tuple(known["inputs"]), request.heads or tuple(known["heads"])
            request = replace(request, names=names, heads=heads)
        with opened(request, server, monitor, AnswerCache(folder / _ANSWERS), summary) as run:
            if known is not None and set(known["heads"]) == {info.name for info in run.heads}:
                _check_pins(known, run)
            job.begin(
                _asked(run, here) | {"options": remembered},
                lambda: find(request, summary),
                request.shard_rows,
                lambda count: tell("planned", inputs=count),
            )
            _work(job, run, job_options)
    return summary


def run_retry(
    folder: Path,
    kinds: frozenset[str],
    limits: Limits,
    server: ServerOptions,
    monitor: MonitorOptions,
    job_options: JobOptions,
) -> Summary:
    """Label those inputs of a job again that ended with an error of some kinds; raises ValueError for unknown kinds."""
    in_rows = {kind for kind, error in KINDS.items() if not issubclass(error, JobError)}
    if unknown := kinds - in_rows:
        raise ValueError(f"--kind {', '.join(sorted(unknown))}: errors are of the kinds {', '.join(sorted(in_rows))}")
    summary = Summary()
    with Job(folder) as job:
        known = job.asked or {}
        request = Request((), tuple(known["heads"]), RowOptions(**known["columns"]), limits=limits)
        with opened(request, server, monitor, AnswerCache(folder / _ANSWERS), summary) as run:
            _check_pins(known, run)
            _work(job, run, job_options, kinds)
    return summary


def _work(job: Job, run: Run, job_options: JobOptions, kinds: frozenset[str] | None = None) -> None:
    """Label all unfinished inputs, or those with errors of some kinds, on the engine of the options."""
    pinned, tally, before, inputs = pins(run.heads), run.summary.tally, job.total(), job.plan.count
    done, total = (before.rows, inputs) if kinds is None else (0, sum(before.errors[kind] for kind in kinds))
    spec = WorkerSpec(run.request, run.server, pinned, run.schema, job_options.max_failures, kinds)
    if job_options.engine == "ray":
        steps = work_on_ray(job, spec, job_options)
    else:
        label, limit = replace(run.labeller, pinned=pinned).label, Limit(spec.max_failures)
        steps = work(job, claimed(job, kinds), spec, label, limit)
    with run.watched(total, done) as after_each, closing(steps):
        try:
            for rows, written in steps:
                for row in rows:
                    after_each(row)
                if written is not None:
                    shard, counts, node = written
                    tally.saved, tally.retries = tally.saved + counts.saved, tally.retries + counts.retries
                    where: dict[str, Any] = {} if node is None else {"node": node}
                    tell("shard written", shard=shard, rows=counts.rows, errors=dict(counts.errors), **where)
        except ServerUnavailable as error:
            raise ServerUnavailable(f"{error}; finished shards are kept: repeat the same command to go on") from error
    run.summary.job = (job.total(), inputs)


def _check_pins(known: dict[str, Any], run: Run) -> None:
    check_pins({name: Pin(**pin) for name, pin in known["heads"].items()}, pins(run.heads))


def _asked(run: Run, folder: str) -> dict[str, Any]:
    """Everything that rows depend on, for job.json; relative names of inputs start from `folder`."""
    request = run.request
    return {
        "inputs": list(request.names),
        "folder": folder,
        "columns": asdict(request.columns),
        "manifests": {"column": request.inputs.column, "nul": request.inputs.null},
        "texts": request.texts and os.fspath(request.texts.absolute()),
        "known": request.known and os.fspath(request.known.absolute()),
        "max_bytes": request.limits.max_bytes,
        "shard_rows": request.shard_rows,
        "heads": {name: asdict(pin) for name, pin in pins(run.heads).items()},
    }
