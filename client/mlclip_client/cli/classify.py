"""The command `mlclip-client classify`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mlclip_client.bulk.request import Request
from mlclip_client.cli.ending import conclude
from mlclip_client.cli.options import answering, input_option, job_option, refuse, refuse_inputs
from mlclip_client.cli.remembered import as_begun, given, inputs_of, options_of
from mlclip_client.events import logged
from mlclip_client.options import InputOptions, JobOptions, Limits, MonitorOptions, RowOptions, ServerOptions
from mlclip_client.output.files import FORMATS, check_output


def classify(
    context: typer.Context,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders, globs, tars, manifests (.parquet, .csv, .jsonl), lists (.txt), URLs, s3://..., or - "
            "for paths and URLs on stdin."
        ),
    ] = None,
    *,
    head: Annotated[
        list[str] | None, typer.Option(help="A head to use; repeatable. Default: the only one that is served.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="A .parquet or .jsonl file, or - for stdout. \\[default: labels.parquet]")
    ] = None,
    job: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=as_begun,
            help="Folder of a job. A job can be stopped, continued, and shared between workers.",
        ),
    ] = None,
    texts: Annotated[
        Path | None, input_option(help="Titles for heads that read text: .csv or .jsonl with `path` and `text`.")
    ] = None,
    known: Annotated[
        Path | None,
        input_option(
            help="List of SHA-256 hashes, as sha256sum writes it: those files are marked, no server is asked."
        ),
    ] = None,
    inputs: InputOptions,
    limits: Limits,
    columns: RowOptions,
    server: ServerOptions,
    shard_rows: Annotated[int, job_option(min=1, max=10**9, help="Rows per shard of a job.")] = Request.shard_rows,
    job_options: JobOptions,
    monitor: MonitorOptions,
) -> None:
    """Label images and write one row for each input, with labels or with an error.

    To continue a job that was stopped, repeat the command, or give `--job DIR` alone: the job stores its options.
    Several workers can share a job.
    Exit code: 0 all labelled, 1 the server failed, 2 wrong usage, 3 some inputs could not be used.
    """
    with logged(monitor.log):
        if job is None:
            refuse(given(context, "engine", "shard_rows"), "only with --job DIR, a job")
        server = answering(context, server, job_options)
        if not paths and (job is None or not (job / "job.json").exists()):
            raise ValueError("name inputs: files, folders, manifests, URLs, or - for stdin")
        request = Request(
            names=tuple(paths or ()),
            heads=tuple(head) if head else None,
            columns=columns,
            inputs=inputs,
            limits=replace(limits, connections=server.concurrency),
            texts=texts,
            known=known,
            shard_rows=shard_rows,
        )
        if job is None:
            out = out or "labels.parquet"
        if out is not None:
            check_output(out, *FORMATS)
        refuse_inputs((out, monitor.log), [*request.names, texts, known, *inputs_of(job)])
        if job is None:
            from mlclip_client.bulk.stream import run_stream  # loads gRPC, pyarrow and Pillow

            assert out is not None
            summary = run_stream(request, server, monitor, out, job_options.max_failures)
        else:
            from mlclip_client.jobs.run import run_job

            summary = run_job(job, request, server, monitor, job_options, options_of(context))
        raise typer.Exit(conclude(summary, job, out))
