"""The commands `mlclip-client status` and `retry-failed`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mlclip_client.bulk.request import JobOptions, MonitorOptions, ServerOptions
from mlclip_client.cli import options
from mlclip_client.cli.remembered import as_begun
from mlclip_client.errors import RETRYABLE_KINDS
from mlclip_client.events import logged
from mlclip_client.inputs import USER_AGENT
from mlclip_client.jobs.folder import Job
from mlclip_client.jobs.run import run_retry
from mlclip_client.output.writers import check_target
from mlclip_client.session import MAX_BYTES


def retry_failed(
    context: typer.Context,
    job: Annotated[Path, typer.Argument(is_eager=True, callback=as_begun, help="Folder of a job.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(help=f"Kinds of errors; repeatable. \\[default: {', '.join(sorted(RETRYABLE_KINDS))}]"),
    ] = None,
    out: Annotated[str | None, typer.Option(help="A .parquet or .jsonl file for all rows, or - for stdout.")] = None,
    url: options.Url = "127.0.0.1:8001",
    concurrency: options.Concurrency = 32,
    timeout: options.Timeout = 30.0,
    retry_seconds: options.RetrySeconds = 60.0,
    via: options.Via = "bytes",
    embedded: options.Embedded = None,
    threads: options.Threads = 0,
    max_bytes: options.MaxBytes = MAX_BYTES,
    download_seconds: options.DownloadSeconds = 30.0,
    per_host: options.PerHost = 4,
    private: options.Private = False,
    ignore_robots: options.IgnoreRobots = False,
    proxy: options.Proxy = None,
    user_agent: options.UserAgent = USER_AGENT,
    max_failures: options.MaxFailures = 1000,
    engine: options.Engine = "local",
    ray_address: options.RayAddress = None,
    ray_workers: options.RayWorkers = 0,
    metrics_port: options.MetricsPort = None,
    metrics_host: options.MetricsHost = "127.0.0.1",
    log: options.Log = None,
    debug: options.Debug = False,
) -> None:
    """Label those inputs of a job again whose error may have passed; rows that succeed take the place of errors.

    Options that are not given are those that the job was begun with.
    """
    kinds = frozenset(kind) if kind else RETRYABLE_KINDS
    with options.reported(debug), logged(log):
        limits = options.limits(
            max_bytes, download_seconds, concurrency, per_host, private, ignore_robots, proxy, user_agent
        )
        working = JobOptions(most_failures=max_failures, cluster=options.cluster(engine, ray_address, ray_workers))
        embedded = options.models_here(context, embedded, working.cluster)
        asking = ServerOptions(options.split_urls(url), timeout, retry_seconds, concurrency, via, embedded, threads)
        if out is not None:
            check_target(out)
        summary = run_retry(job, kinds, limits, asking, MonitorOptions(metrics_port, metrics_host), working)
        rest = f"the others have no row yet: classify --job {job} goes on with them"
        raise typer.Exit(options.conclude(summary, job, out, rest))


def status(
    job: Annotated[Path, typer.Argument(help="Folder of a job.")],
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Write a JSON object.")] = False,
    debug: options.Debug = False,
) -> None:
    """Say how far a job is and what came of its inputs."""
    with options.reported(debug):
        options.check_stdout()
        with Job(job) as opened:
            counts, inputs, shards = opened.total(), opened.plan.count, opened.plan.shards
            done, heads = len(opened.done_shards()), (opened.asked or {})["heads"]
        if as_json:
            found = {"inputs": inputs, "rows": counts.rows, "errors": counts.errors, "shards": shards, "done": done}
            sys.stdout.write(json.dumps({**found, "heads": heads}) + "\n")
            return
        sys.stdout.write(f"{options.progress(counts, inputs)}; {done:,} of {shards:,} shards\n")
        for name, pin in heads.items():
            sys.stdout.write(f"head {name}, version {pin['version']}, labels {pin['labels_sha256'][:12]}\n")
