"""What every run needs, and the run without a job: inputs to rows in one stream. For jobs see `jobs`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa  # type: ignore[import-untyped]

from mlclip_client.bulk.backends import open_backend
from mlclip_client.bulk.known import read_known
from mlclip_client.bulk.labeller import Labeller
from mlclip_client.bulk.limit import Limit
from mlclip_client.bulk.progress import Figures, metrics, shown
from mlclip_client.bulk.request import Request, Summary
from mlclip_client.errors import ClientError
from mlclip_client.events import tell
from mlclip_client.inputs import Reader, Skipped, find_inputs
from mlclip_client.inputs.item import Item
from mlclip_client.inputs.texts import Texts
from mlclip_client.options import MonitorOptions, ServerOptions
from mlclip_client.ordered import ordered
from mlclip_client.output.cache import AnswerCache
from mlclip_client.output.rows import Row, schema
from mlclip_client.output.tally import Tally
from mlclip_client.output.writers import open_writer
from mlclip_client.values import HeadInfo


@dataclass(frozen=True)
class Run:
    """A run in progress; its summary is kept up to date."""

    request: Request
    server: ServerOptions
    monitor: MonitorOptions
    heads: tuple[HeadInfo, ...]
    labeller: Labeller
    summary: Summary

    @property
    def schema(self) -> pa.Schema:
        """Of the rows."""
        return schema(self.heads, self.request.columns)

    @contextlib.contextmanager
    def watched(self, total: int | None = None, done: int = 0) -> Iterator[Callable[[Row], None]]:
        """Show progress; gives a function to call after each row, which counts it and logs its error.

        Ctrl-C ends the block and is noted in the summary. `total` and `done` are as in `shown`.
        """
        tally, monitor = self.summary.tally, self.monitor
        figures = Figures(tally, self.labeller.backend, self.labeller.cache)
        with metrics(monitor.metrics_port, monitor.metrics_host, figures), shown(tally, total, done) as advance:

            def after_each(row: Row) -> None:
                tally.count(row)
                advance()
                if row["error_kind"]:
                    tell("input failed", path=row["path"], kind=row["error_kind"], error=row["error"])

            try:
                yield after_each
            except KeyboardInterrupt:
                self.summary.interrupted = True


def run_stream(
    request: Request, server: ServerOptions, monitor: MonitorOptions, out: str, max_failures: int = 0
) -> Summary:
    """Label inputs; write one row each, in order, to `out`, see `open_writer`. Raises ClientError or ValueError.

    Stops after `max_failures` rows in a row for which no server had an answer; 0: never.
    """
    summary = Summary()
    limit = Limit(max_failures, "look at the server, or raise --max-failures", inputs=False)
    items = find(request, summary)
    with (
        opened(request, server, monitor, AnswerCache(), summary) as run,
        open_writer(out, run.schema, lambda: summary.interrupted) as write,
        run.watched() as after_each,
    ):
        for row in ordered(run.labeller.label, items, server.concurrency):
            write(row)
            after_each(row)
            limit.count(row)
    return summary


@contextlib.contextmanager
def opened(
    request: Request, server: ServerOptions, monitor: MonitorOptions, cache: AnswerCache, summary: Summary
) -> Iterator[Run]:
    """Open what a `Run` needs: backend, reader and cache, which is closed at the end.

    Raises ValueError if there are texts, and no head reads them, or the list of known files cannot be read.
    """
    with cache, Reader(request.limits) as reader, open_backend(request, server) as backend:
        heads = backend.asked_heads()
        if request.texts is not None and not any(info.reads_text for info in heads):
            raise ValueError(f"--texts: no head among {', '.join(info.name for info in heads)} reads text")
        tell("started", heads={info.name: info.version for info in heads})
        labeller = Labeller(backend, reader, cache, request.columns, known=read_known(request.known))
        yield Run(request, server, monitor, heads, labeller, summary)
        summary.tally.add(Tally(saved=cache.saved, retries=backend.transport.retries))


def find(request: Request, summary: Summary) -> Iterator[Item]:
    """Find all inputs, lazily, with their texts; the summary receives what is skipped, and the texts.

    Raises ClientError at once if there are no inputs.
    """
    summary.skipped = skipped = Skipped()
    items = find_inputs(request.names, request.inputs, skipped)
    if request.names != ("-",):  # a pipe is not read ahead
        first = next(items, None)
        if first is None:
            raise ClientError("; ".join(filter(None, ("no images found", str(skipped)))))
        items = chain([first], items)
    if request.texts is not None:
        summary.texts = Texts(request.texts)
        return summary.texts.join(items)
    return items
