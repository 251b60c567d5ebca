"""Options that several commands share, and how commands end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from mlclip_client.errors import ClientError, UnknownHead
from mlclip_client.inputs import Limits
from mlclip_client.jobs.folder import Counts
from mlclip_client.jobs.merge import merge
from mlclip_client.settings import OnRay, Summary
from mlclip_client.tally import DONE, FAILED, REJECTED, USAGE

Url = Annotated[str, typer.Option(help="Triton's gRPC endpoint, host:port; several with commas between.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Deadline of each request, in seconds.")]
Patience = Annotated[
    float, typer.Option(min=0, help="Seconds to send a request again while nobody answers or all are busy.")
]
Concurrency = Annotated[int, typer.Option(min=1, help="Images under work at once.")]
Via = Annotated[Literal["bytes", "pixels"], typer.Option(help="Who decodes: server or client.")]
Embedded = Annotated[
    Path | None, typer.Option(help="Ask no server: run the models of this model repository here (extra `embedded`).")
]
Threads = Annotated[int, typer.Option(min=0, help="Threads of each --embedded model; 0: one a core.")]
Engine = Annotated[
    Literal["local", "ray"], typer.Option(help="Where a job runs: here, or on a Ray cluster (extra `ray`).")
]
RayAddress = Annotated[
    str | None, typer.Option(help="The cluster, as for `ray.init`. [default: RAY_ADDRESS, or this machine]")
]
RayWorkers = Annotated[int, typer.Option(min=0, help="Workers at most, each --concurrency inputs; 0: one a core.")]
MaxFailures = Annotated[int, typer.Option(min=0, help="A job stops after so many errors in a row; 0: never.")]
MaxBytes = Annotated[
    int, typer.Option(min=1, help="Larger files are refused; up to --concurrency files are in memory at once.")
]
DownloadSeconds = Annotated[float, typer.Option(min=0.001, help="Deadline of each download, in seconds.")]
PerHost = Annotated[int, typer.Option(min=1, help="Downloads from one host at once.")]
Private = Annotated[bool, typer.Option("--private", help="Download from private addresses, too.")]
IgnoreRobots = Annotated[
    bool, typer.Option("--ignore-robots", help="Also take images whose site asks not to (X-Robots-Tag).")
]
Proxy = Annotated[
    str | None, typer.Option(help="http://host:port for downloads; the environment's is not used, nor for the server.")
]
MetricsPort = Annotated[int | None, typer.Option(min=1, max=65535, help="Serve figures for Prometheus there.")]
MetricsHost = Annotated[str, typer.Option(help="The address to bind for --metrics-port.")]
Log = Annotated[Path | None, typer.Option(help="Append events to this file, a JSON object a line.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something goes wrong.")]


def split_urls(urls: str) -> tuple[str, ...]:
    """The endpoints of --url."""
    return tuple(filter(None, (url.strip() for url in urls.split(","))))


def limits(
    max_bytes: int,
    seconds: float,
    concurrency: int,
    per_host: int,
    private: bool,
    ignore_robots: bool,
    proxy: str | None,
) -> Limits:
    """What the reader of inputs may do."""
    return Limits(
        max_bytes=max_bytes,
        seconds=seconds,
        connections=concurrency,
        per_host=per_host,
        private=private,
        robots=not ignore_robots,
        proxy=proxy,
    )


def cluster(engine: str, address: str | None, workers: int) -> OnRay | None:
    """Where a job runs, if not here; raises ValueError."""
    if engine == "ray":
        return OnRay(address, workers)
    if address is not None or workers:
        raise ValueError("--ray-address and --ray-workers go with --engine ray")
    return None


def conclude(summary: Summary, job: Path | None, out: str | None) -> int:
    """Say what came of a run, merge a job that is complete, and give the exit code."""
    tally = summary.tally
    parts = [str(tally)]
    if summary.saved:
        parts.append(f"{summary.saved:,} took the answer of the same bytes")
    if summary.retries:
        parts.append(f"{summary.retries:,} requests sent again")
    if summary.found is not None and (passed := str(summary.found)):
        parts.append(passed)
    if summary.texts is not None:
        parts.append(f"{summary.texts.used:,} have one of the {len(summary.texts):,} texts")
    code = tally.exit_code()
    if job is None:
        parts += [f"written to {out}"] * (out != "-")
    else:
        assert summary.job is not None
        counts, inputs = summary.job
        parts.append(f"{job}: {progress(counts, inputs)}")
        complete = counts.rows == inputs
        if complete and out is not None:
            merge(job, out)
            parts.append(f"written to {out}" if out != "-" else "written to stdout")
        elif not complete and not summary.interrupted:
            parts.append("the rest is with other workers; give the command again if they were stopped")
        code = DONE if not counts.failed else REJECTED if code == DONE else code
    say("; ".join(parts))
    if tally.failed:
        say(f"error: the server did not answer for every image: {tally.last_failure}")
    if summary.interrupted:
        kept = "the output holds the rows up to here" if job is None else "the same command goes on with the job"
        say(f"error: interrupted; {kept}")
        return FAILED
    unreadable = summary.found is not None and summary.found.unreadable
    return REJECTED if code == DONE and unreadable else code


def progress(counts: Counts, inputs: int) -> str:
    """How far a job is, in a line."""
    text = f"{counts.rows:,} of {inputs:,} inputs have a row"
    kinds = [f"{count:,} {kind}" for kind, count in sorted((counts.errors or {}).items(), key=lambda pair: -pair[1])]
    return f"{text}, {counts.failed:,} of them an error ({', '.join(kinds)})" if kinds else text


@contextlib.contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Every foreseen error becomes one line and an exit code."""
    try:
        yield
    except (UnknownHead, ValueError, ClientError, OSError) as error:
        if debug or isinstance(error, BrokenPipeError):
            raise
        say(f"error: {error}")
        raise typer.Exit(USAGE if isinstance(error, UnknownHead | ValueError) else FAILED) from error


def say(line: str) -> None:
    """Write a line for people."""
    sys.stderr.write(line + "\n")
