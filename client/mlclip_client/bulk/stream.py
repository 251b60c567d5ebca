"""The bulk tool: what every run needs, and inputs to rows in one stream. The other way is a job, see `jobs`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa  # type: ignore[import-untyped]

from mlclip_client.bulk.backends import open_backend
from mlclip_client.bulk.labeller import Labeller
from mlclip_client.bulk.progress import Figures, metrics, shown
from mlclip_client.bulk.request import MonitorOptions, Request, ServerOptions, Summary
from mlclip_client.errors import ClientError
from mlclip_client.events import tell
from mlclip_client.inputs import Reader, Skipped, find_inputs
from mlclip_client.inputs.item import Item
from mlclip_client.inputs.texts import Texts
from mlclip_client.ordered import ordered
from mlclip_client.output.cache import AnswerCache
from mlclip_client.output.rows import Row, schema
from mlclip_client.output.writers import open_writer
from mlclip_client.values import HeadInfo


@dataclass(frozen=True)
class Run:
    """A run under way.

    Attributes:
        wanted: what.
        asking: how.
        watching: who looks on.
        heads: those that are asked.
        labeller: gives the rows.
        summary: what the run says at its end; kept up to date.
    """

    wanted: Request
    asking: ServerOptions
    watching: MonitorOptions
    heads: tuple[HeadInfo, ...]
    labeller: Labeller
    summary: Summary

    @property
    def schema(self) -> pa.Schema:
        """Of the rows."""
        return schema(self.heads, self.wanted.columns)

    @contextlib.contextmanager
    def watched(self, total: int | None = None, done: int = 0) -> Iterator[Callable[[Row], None]]:
        """Show how the run goes on; gives what to call after each row: it counts, shows and tells of failures.

        Ctrl-C ends the block, and the summary says so.

        Args:
            total: see `shown`.
            done: see `shown`.
        """
        tally, watching = self.summary.tally, self.watching
        figures = Figures(tally, self.labeller.client, self.labeller.findings)
        with metrics(watching.metrics_port, watching.metrics_host, figures), shown(tally, total, done) as advance:

            def after_each(row: Row) -> None:
                tally.add(row)
                advance()
                if row["error_kind"]:
                    tell("input failed", path=row["path"], kind=row["error_kind"], error=row["error"])

            try:
                yield after_each
            except KeyboardInterrupt:
                self.summary.interrupted = True


def run_stream(wanted: Request, asking: ServerOptions, watching: MonitorOptions, out: str) -> Summary:
    """Label inputs and write one row each, in their order.

    Args:
        wanted: what.
        asking: how.
        watching: who looks on.
        out: a .parquet or .jsonl path, or `-` for JSON lines on stdout; see `open_writer` for an interrupted run.

    Raises:
        ClientError: there are no inputs, or the server cannot be asked at all.
        ValueError: an argument makes no sense.
    """
    summary = Summary()
    items = find(wanted, summary)
    with (
        begun(wanted, asking, watching, AnswerCache(), summary) as run,
        open_writer(out, run.schema, lambda: summary.interrupted) as write,
        run.watched() as after_each,
    ):
        for row in ordered(run.labeller.label, items, asking.concurrency):
            write(row)
            after_each(row)
    return summary


@contextlib.contextmanager
def begun(
    wanted: Request, asking: ServerOptions, watching: MonitorOptions, findings: AnswerCache, summary: Summary
) -> Iterator[Run]:
    """Open whoever answers and what reads inputs, for a run.

    Args:
        wanted: what.
        asking: how.
        watching: who looks on.
        findings: what is known already; closed at the end.
        summary: of the run.

    Raises:
        ClientError: nobody can be asked.
        ValueError: there are texts, and no head reads them.
    """
    with findings, Reader(wanted.limits) as reader, open_backend(wanted, asking) as client:
        heads = client.asked_heads()
        if wanted.texts is not None and not any(info.reads_text for info in heads):
            raise ValueError(f"--texts: no head among {', '.join(info.name for info in heads)} reads text")
        tell("started", heads={info.name: info.version for info in heads})
        yield Run(wanted, asking, watching, heads, Labeller(client, reader, findings, wanted.columns), summary)
        summary.saved, summary.retries = findings.saved, client.transport.retries


def find(wanted: Request, summary: Summary) -> Iterator[Item]:
    """Find all inputs, lazily, with their texts.

    Args:
        wanted: which.
        summary: receives what is passed by, and the texts.

    Raises:
        ClientError: there is none; raised at once, before anything is asked.
        ValueError: a name or the file of texts makes no sense.
    """
    summary.found = found = Skipped()
    items = find_inputs(wanted.names, wanted.inputs, found)
    if wanted.names != ("-",):  # of a pipe nothing is read ahead
        first = next(items, None)
        if first is None:
            raise ClientError("; ".join(filter(None, ("no images found", str(found)))))
        items = chain([first], items)
    if wanted.texts is not None:
        summary.texts = Texts(wanted.texts)
        return summary.texts.join(items)
    return items
