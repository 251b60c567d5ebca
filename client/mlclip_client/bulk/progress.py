"""Progress of a run: a bar on a terminal, plain lines elsewhere, figures for Prometheus."""

import contextlib
import errno
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TextIO

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
    """Show the progress of a run of `total` inputs, if known; gives a function to call after each input.

    The caller keeps the tally up to date. `done` inputs were done before. The stream is standard error unless given.
    """
    console, started = Console(file=stream or sys.stderr), time.monotonic()
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

        def advance() -> None:
            rate = f"{_rate(tally, time.monotonic() - started):,.0f}/s"
            progress.update(task, completed=done + tally.rows, errors=tally.errors.total(), rate=rate)

        yield advance


def progress_line(tally: Tally, total: int | None, done: int, seconds: float) -> str:
    """Give the progress of a run in one line."""
    seen, rate = done + tally.rows, _rate(tally, seconds)
    inputs = counted(seen, "input") if total is None else f"{seen:,} of {counted(total, 'input')}"
    text = f"{inputs}, {tally.errors.total():,} with an error, {rate:,.0f}/s"
    if total is None or not tally.rows:
        return text
    left = round((total - seen) / rate)
    return f"{text}, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"


def _lines(tally: Tally, total: int | None, done: int, file: IO[str]) -> Callable[[], None]:
    started = last = time.monotonic()

    def advance() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_SECONDS:
            last = now
            file.write(progress_line(tally, total, done, now - started) + "\n")
            file.flush()

    return advance


def _rate(tally: Tally, seconds: float) -> float:
    return tally.rows / max(seconds, 1e-9)


class Figures(Collector):
    """What Prometheus reads, taken from the run's own counters at each request."""

    def __init__(self, tally: Tally, backend: Backend, cache: AnswerCache) -> None:
        self._tally, self._backend, self._cache = tally, backend, cache

    def collect(self) -> Iterable[Metric]:
        """Give all figures."""
        tally, transport = self._tally, self._backend.transport
        inputs = CounterMetricFamily("mlclip_client_inputs", "inputs with a row, by outcome", labels=["outcome"])
        for outcome, count in [("labelled", tally.labelled), *tally.errors.items()]:
            inputs.add_metric([outcome], count)
        yield inputs
        retries, saved = tally.retries + transport.retries, tally.saved + self._cache.saved
        yield CounterMetricFamily("mlclip_client_retries", "requests sent again", value=retries)
        yield CounterMetricFamily("mlclip_client_saved", "inputs whose bytes had an answer", value=saved)
        up = GaugeMetricFamily("mlclip_client_endpoint_up", "whether an endpoint answers", labels=["url"])
        for endpoint in transport.endpoints:
            up.add_metric([endpoint.url], endpoint.failures == 0)
        yield up


@contextlib.contextmanager
def metrics(port: int | None, host: str, figures: Figures) -> Iterator[None]:
    """Serve figures at http://HOST:PORT/metrics while the block runs, unless the port is None."""
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
