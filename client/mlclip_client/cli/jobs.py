"""The commands `mlclip-client status` and `retry-failed`."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mlclip_client.cli.ending import check_stdout, conclude, progress
from mlclip_client.cli.options import answering, refuse_inputs
from mlclip_client.cli.remembered import as_begun, given, inputs_of
from mlclip_client.errors import RETRYABLE_KINDS
from mlclip_client.events import logged
from mlclip_client.options import JobOptions, Limits, MonitorOptions, ServerOptions
from mlclip_client.output.files import FORMATS, check_output


def retry_failed(
    context: typer.Context,
    job: Annotated[Path, typer.Argument(is_eager=True, callback=as_begun, help="Folder of a job.")],
    *,
    kind: Annotated[
        list[str] | None,
        typer.Option(help=f"Kind of error to retry; repeatable. \\[default: {', '.join(sorted(RETRYABLE_KINDS))}]"),
    ] = None,
    out: Annotated[str | None, typer.Option(help="A .parquet or .jsonl file for all rows, or - for stdout.")] = None,
    limits: Limits,
    server: ServerOptions,
    job_options: JobOptions,
    monitor: MonitorOptions,
) -> None:
    """Retry the inputs of a job that failed with a temporary error. A new row replaces the row with the error.

    Options that you do not give have the values that the job stores.
    """
    with logged(monitor.log):
        server = answering(context, server, job_options)
        if out is not None:
            check_output(out, *FORMATS)
        refuse_inputs((out, monitor.log), inputs_of(job))
        limits = replace(limits, connections=server.concurrency)
        from mlclip_client.jobs.run import run_retry  # loads gRPC, pyarrow and Pillow

        summary = run_retry(job, frozenset(kind or RETRYABLE_KINDS), limits, server, monitor, job_options)
        if summary.job and summary.job[0].rows < summary.job[1] and not given(context, "out"):
            out = None
        rest = f"the others have no row yet: classify --job {job} goes on with them"
        raise typer.Exit(conclude(summary, job, out, rest))


def status(
    job: Annotated[Path, typer.Argument(help="Folder of a job.")],
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print a JSON object.")] = False,
) -> None:
    """Show a job's progress and its errors by kind."""
    from mlclip_client.jobs.folder import Job

    check_stdout()
    with Job(job) as opened:
        counts, inputs, shards = opened.total(), opened.plan.count, opened.plan.shards
        done, heads = len(opened.done_shards()), (opened.asked or {})["heads"]
    if as_json:
        found = {"inputs": inputs, "rows": counts.rows, "errors": counts.errors, "shards": shards, "done": done}
        sys.stdout.write(json.dumps({**found, "heads": heads}) + "\n")
        return
    sys.stdout.write(f"{progress(counts, inputs)}; {done:,} of {shards:,} shards\n")
    for name, pin in heads.items():
        sys.stdout.write(f"head {name}, version {pin['version']}, labels {pin['labels_sha256'][:12]}\n")
