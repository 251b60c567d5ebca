"""How commands end: their last lines on stderr, and their exit codes."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from mlclip_client.bulk.request import Summary
from mlclip_client.errors import ClientError, UnknownHead, WrongJob
from mlclip_client.events import tell
from mlclip_client.output.files import partial_name
from mlclip_client.output.tally import DONE, FAILED, REJECTED, USAGE, Tally
from mlclip_client.wording import counted, printable, reason_of

OTHER_WORKERS = "the rest is with other workers; repeat the command if they were stopped"


@contextlib.contextmanager
def reported(debug: bool) -> Iterator[None]:
    """End the command with one line and an exit code where an expected error is raised; with `debug`, let it pass."""
    try:
        yield
    except (ValueError, ClientError, OSError) as error:
        if debug or isinstance(error, BrokenPipeError):
            raise
        place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        say(f"error: {place}{reason_of(error) if isinstance(error, OSError) else error}")
        raise typer.Exit(USAGE if isinstance(error, UnknownHead | WrongJob | ValueError) else FAILED) from error


def say(line: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(printable(line) + "\n")


def check_stdout() -> None:
    """Raise ValueError if there is no stdout to write to."""
    if sys.stdout is None:
        raise ValueError("stdout is closed, and there is nowhere else to write to")


def conclude(summary: Summary, job: Path | None, out: str | None, rest: str = OTHER_WORKERS) -> int:
    """Report what came of a run, merge a job that is complete, and give the exit code.

    `rest` is what to say of inputs of a job that have no row yet.
    """
    code = _stream_end(summary, str(out)) if job is None else _job_end(summary, job, out, rest)
    tally = summary.tally
    tell("ended", exit_code=code, labelled=tally.labelled, errors=dict(tally.errors), interrupted=summary.interrupted)
    return code


def _stream_end(summary: Summary, out: str) -> int:
    place = partial_name(out) if summary.interrupted else out
    _say_all(summary, [] if out == "-" else [f"written to {place}"])
    if summary.interrupted:
        return _fail("interrupted; the rows up to here are kept")
    return _unless_unreadable(summary.tally.exit_code(), summary)


def _job_end(summary: Summary, job: Path, out: str | None, rest: str) -> int:
    assert summary.job is not None
    counts, inputs = summary.job
    parts, complete = [f"{job}: {progress(counts, inputs)}"], counts.rows == inputs
    if complete and out is not None:
        from mlclip_client.jobs.folder import merge  # loads pyarrow

        merge(job, out)
        parts.append(f"written to {'stdout' if out == '-' else out}")
    elif not complete and not summary.interrupted:
        parts.append(rest)
    _say_all(summary, parts)
    if summary.interrupted:
        return _fail(f"interrupted; --job {job} goes on with it")
    if not complete and out is not None:
        return _fail(f"{out} is not written before every input has a row")
    code = summary.tally.exit_code()
    return _unless_unreadable(DONE if not counts.rejected else REJECTED if code == DONE else code, summary)


def _say_all(summary: Summary, parts: list[str]) -> None:
    tally, told = summary.tally, [str(summary.tally)]
    if tally.saved and not summary.interrupted:  # it also counts inputs whose rows were not written
        told.append(f"{tally.saved:,} took the answer of the same bytes")
    if tally.retries:
        told.append(f"{counted(tally.retries, 'request')} sent again")
    if summary.skipped is not None and (skipped := str(summary.skipped)):
        told.append(skipped)
    if summary.texts is not None:
        told.append(f"{counted(summary.texts.used, 'has', 'have')} one of the {len(summary.texts):,} texts")
    say("; ".join(told + parts))
    if tally.failed:
        say(f"error: the server did not answer for every image: {tally.last_failure}")


def _fail(reason: str) -> int:
    say(f"error: {reason}")
    return FAILED


def _unless_unreadable(code: int, summary: Summary) -> int:
    return REJECTED if code == DONE and summary.skipped is not None and summary.skipped.unreadable else code


def progress(counts: Tally, inputs: int) -> str:
    """Say how far a job is."""
    text = f"{counts.rows:,} of {inputs:,} inputs have a row"
    return f"{text}, {counts.rejected:,} of them an error ({counts.kinds})" if counts.rejected else text
