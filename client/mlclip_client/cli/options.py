"""Options that several commands share, and how commands end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from mlclip_client.bulk.request import OnRay, Summary
from mlclip_client.cli.remembered import given
from mlclip_client.errors import ClientError, UnknownHead, WrongJob
from mlclip_client.events import tell
from mlclip_client.inputs import Limits
from mlclip_client.jobs.merge import merge
from mlclip_client.output.tally import DONE, FAILED, REJECTED, USAGE, Tally
from mlclip_client.output.writers import partial_name
from mlclip_client.wording import counted

Url = Annotated[str, typer.Option(help="Triton's gRPC endpoint, host:port; several with commas between.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Deadline of each request, in seconds.")]
RetrySeconds = Annotated[
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
    str | None, typer.Option(help="The cluster, as for `ray.init`. \\[default: RAY_ADDRESS, or this machine]")
]
RayWorkers = Annotated[int, typer.Option(min=0, help="Workers at most, each --concurrency inputs; 0: one a core.")]
MaxFailures = Annotated[int, typer.Option(min=0, help="A job stops after so many errors in a row; 0: never.")]
MaxBytes = Annotated[
    int, typer.Option(min=1, help="Larger files are refused; up to --concurrency files are in memory at once.")
]
DownloadSeconds = Annotated[float, typer.Option(min=0.001, help="Deadline of each download, in seconds.")]
PerHost = Annotated[int, typer.Option(min=1, help="Downloads from one host at once.")]
Private = Annotated[bool, typer.Option("--private", metavar="", help="Download from private addresses, too.")]
IgnoreRobots = Annotated[
    bool, typer.Option("--ignore-robots", metavar="", help="Also take images whose site asks not to (X-Robots-Tag).")
]
UserAgent = Annotated[str, typer.Option(help="The name that sites see: your crawler's, and where to reach you.")]
Proxy = Annotated[
    str | None, typer.Option(help="http://host:port for downloads; the environment's is not used, nor for the server.")
]
MetricsPort = Annotated[int | None, typer.Option(min=1, max=65535, help="Serve figures for Prometheus there.")]
MetricsHost = Annotated[str, typer.Option(help="The address to bind for --metrics-port.")]
Log = Annotated[Path | None, typer.Option(help="Append events to this file, a JSON object a line.")]
Debug = Annotated[bool, typer.Option("--debug", metavar="", help="Show a traceback when something goes wrong.")]


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
    user_agent: str,
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
        user_agent=user_agent,
    )


def cluster(engine: str, address: str | None, workers: int) -> OnRay | None:
    """Where a job runs, if not here; raises ValueError."""
    if engine == "ray":
        return OnRay(address, workers)
    if address is not None or workers:
        raise ValueError("--ray-address and --ray-workers go with --engine ray")
    return None


def check_stdout() -> None:
    """Raise ValueError if there is no stdout to write to."""
    if sys.stdout is None:
        raise ValueError("stdout is closed, and there is nowhere else to write to")


def refuse(names: Sequence[str], why: str) -> None:
    """Raise ValueError if there are names of options that would be ignored."""
    if names:
        raise ValueError(f"{', '.join(names)}: {why}")


def models_here(context: typer.Context, embedded: Path | None, on_ray: OnRay | None) -> Path | None:
    """The models that answer in this process, if some do: a --url takes back the --embedded that a job remembers.

    Raises:
        ValueError: options about a server where none is asked, or about models where one is.
    """
    if given(context, "url") and not given(context, "embedded"):
        embedded = None
    if embedded is not None:
        refuse(given(context, "url", "timeout", "retry_seconds"), "with --embedded no server is asked")
    elif on_ray is None:
        refuse(given(context, "threads"), "only with --embedded or --engine ray; a server has its own")
    return embedded


def conclude(
    summary: Summary,
    job: Path | None,
    out: str | None,
    rest: str = "the rest is with other workers; give the command again if they were stopped",
) -> int:
    """Say what came of a run, merge a job that is complete, and give the exit code.

    Args:
        summary: of the run.
        job: its folder, if it was one.
        out: where its rows are wanted.
        rest: what to say of inputs of a job that have no row yet.
    """
    code = _conclude(summary, job, out, rest)
    tally = summary.tally
    tell("ended", exit_code=code, labelled=tally.labelled, errors=dict(tally.errors), interrupted=summary.interrupted)
    return code


def _conclude(summary: Summary, job: Path | None, out: str | None, rest: str) -> int:
    tally = summary.tally
    parts = [str(tally)]
    if tally.saved and not summary.interrupted:  # it also counts inputs whose rows were not written
        parts.append(f"{tally.saved:,} took the answer of the same bytes")
    if tally.retries:
        parts.append(f"{counted(tally.retries, 'request')} sent again")
    if summary.skipped is not None and (skipped := str(summary.skipped)):
        parts.append(skipped)
    if summary.texts is not None:
        used = counted(summary.texts.used, "has", "have")
        parts.append(f"{used} one of the {len(summary.texts):,} texts")
    code = tally.exit_code()
    unwritten = False
    if job is None:
        assert out is not None
        place = partial_name(out) if summary.interrupted else out
        parts += [f"written to {place}"] * (out != "-")
    else:
        assert summary.job is not None
        counts, inputs = summary.job
        parts.append(f"{job}: {progress(counts, inputs)}")
        complete = counts.rows == inputs
        if complete and out is not None:
            merge(job, out)
            parts.append(f"written to {out}" if out != "-" else "written to stdout")
        elif not complete and not summary.interrupted:
            parts.append(rest)
            unwritten = out is not None
        code = DONE if not counts.errors else REJECTED if code == DONE else code
    say("; ".join(parts))
    if tally.failed:
        say(f"error: the server did not answer for every image: {tally.last_failure}")
    if summary.interrupted:
        kept = "the rows up to here are kept" if job is None else f"--job {job} goes on with it"
        say(f"error: interrupted; {kept}")
        return FAILED
    if unwritten:
        say(f"error: {out} is not written before every input has a row")
        return FAILED
    unreadable = summary.skipped is not None and summary.skipped.unreadable
    return REJECTED if code == DONE and unreadable else code


def progress(counts: Tally, inputs: int) -> str:
    """How far a job is, in a line."""
    text = f"{counts.rows:,} of {inputs:,} inputs have a row"
    return f"{text}, {counts.errors.total():,} of them an error ({counts.kinds})" if counts.errors else text


@contextlib.contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Every foreseen error becomes one line and an exit code."""
    try:
        yield
    except (UnknownHead, ValueError, ClientError, OSError) as error:
        if debug or isinstance(error, BrokenPipeError):
            raise
        say(f"error: {error}")
        raise typer.Exit(USAGE if isinstance(error, UnknownHead | WrongJob | ValueError) else FAILED) from error


def say(line: str) -> None:
    """Write a line for people."""
    sys.stderr.write(line + "\n")
