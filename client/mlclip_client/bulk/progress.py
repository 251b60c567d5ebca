"""Watching a run: a bar on a terminal, plain lines elsewhere, figures for Prometheus."""

from __future__ import annotations

import contextlib
import errno
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mlclip_client.bulk.backends import Backend
from mlclip_client.output.cache import AnswerCache
from mlclip_client.output.tally import Tally
from mlclip_client.wording import counted

LINE_SECONDS = 10.0


@contextlib.contextmanager
def shown(tally: Tally, total: int | None, done: int = 0, stream: TextIO | None = None) -> Iterator[Callable[[], None]]:
    """Show how a run goes on; gives what to call after each input.

    Args:
        tally: kept up to date by the caller.
        total: inputs in all; None where that is not known.
        done: those done before this run.
        stream: standard error, unless said otherwise.
    """
    console = Console(file=stream or sys.stderr)
    if not console.is_terminal:
        yield _lines(tally, total, done, console.file)
        return
    columns = (
        BarColumn(24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}, {task.fields[errors]:,} with an error"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total, completed=done, errors=0, rate="")
        started = time.monotonic()

        def advance() -> None:
            rate = f"{tally.rows / max(time.monotonic() - started, 1e-9):,.0f}/s"
            progress.update(task, completed=done + tally.rows, errors=tally.errors, rate=rate)

        yield advance


def _lines(tally: Tally, total: int | None, done: int, file: Any) -> Callable[[], None]:
    started = last = time.monotonic()

    def advance() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_SECONDS:
            last = now
            file.write(progress_line(tally, total, done, now - started) + "\n")
            file.flush()

    return advance


def progress_line(tally: Tally, total: int | None, done: int, seconds: float) -> str:
    """How far a run is, in a line."""
    rate = tally.rows / max(seconds, 1e-9)
    seen = done + tally.rows
    inputs = counted(seen, "input") if total is None else f"{seen:,} of {counted(total, 'input')}"
    text = f"{inputs}, {tally.errors:,} with an error, {rate:,.0f}/s"
    if total is None or not tally.rows:
        return text
    left = round((total - done - tally.rows) / rate)
    return f"{text}, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"


class Figures(Collector):
    """What Prometheus asks for: read from the run's own counters when it asks.

    Args:
        tally: of rows.
        client: whose endpoints answer or not.
        findings: what duplicates saved.
    """

    def __init__(self, tally: Tally, client: Backend, findings: AnswerCache) -> None:
        self._tally, self._client, self._findings = tally, client, findings

    def collect(self) -> Iterable[Metric]:
        """Give all figures."""
        inputs = CounterMetricFamily("mlclip_client_inputs", "inputs with a row, by outcome", labels=["outcome"])
        inputs.add_metric(["labelled"], self._tally.labelled)
        for kind, count in [*self._tally.rejected.items(), *self._tally.failed.items()]:
            inputs.add_metric([kind], count)
        yield inputs
        transport = self._client.transport
        yield CounterMetricFamily("mlclip_client_retries", "requests sent again", value=transport.retries)
        yield CounterMetricFamily("mlclip_client_saved", "inputs whose bytes had an answer", value=self._findings.saved)
        up = GaugeMetricFamily("mlclip_client_endpoint_up", "whether an endpoint answers", labels=["url"])
        for endpoint in transport.endpoints:
            up.add_metric([endpoint.url], endpoint.failures == 0)
        yield up


@contextlib.contextmanager
def metrics(port: int | None, host: str, figures: Figures) -> Iterator[None]:
    """Serve figures at http://HOST:PORT/metrics while the block runs.

    Raises:
        ValueError: nobody can listen there; another process does, or the host is not this machine's.
    """
    if port is None:
        yield
        return
    registry = CollectorRegistry()
    registry.register(figures)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise ValueError(f"--metrics-port {port}: {reason} at {host}: choose another") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
