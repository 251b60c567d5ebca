"""The loop of a worker: claim shards, label their inputs, write their rows."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]

from mlclip_client.bulk.labeller import Pin
from mlclip_client.bulk.limit import Limit
from mlclip_client.bulk.request import Request
from mlclip_client.inputs.item import Item
from mlclip_client.jobs.folder import Job
from mlclip_client.options import ServerOptions
from mlclip_client.ordered import ordered
from mlclip_client.output.rows import Row
from mlclip_client.output.tally import Tally


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs to know, in values that can be sent to another machine."""

    request: Request
    server: ServerOptions
    pinned: Mapping[str, Pin]  # the heads that answers must come from
    schema: pa.Schema  # of the rows
    max_failures: int  # see `Limit`; each worker counts its own
    # retry the inputs of finished shards with errors of these kinds; None: label unfinished shards
    kinds: frozenset[str] | None = None


class ShardResult(NamedTuple):
    """A shard that was written, with counts of all its rows; `node` is Ray's name of the node, None in this process."""

    shard: int
    total: Tally
    node: str | None = None


Steps = Generator[tuple[list[Row], ShardResult | None], None, None]
"""Rows in the order of their inputs, with the shard that they complete."""


def claimed(job: Job, kinds: frozenset[str] | None) -> Iterator[int]:
    """Claim unfinished shards one by one, except those that another process has; `kinds` as in `WorkerSpec`."""
    for shard in range(job.plan.shards):
        if not is_unfinished(job, shard, kinds) or not job.claims.take(shard):
            continue
        if is_unfinished(job, shard, kinds):
            job.sweep(shard)
            yield shard
        else:  # another worker has just finished it
            job.claims.free(shard)


def is_unfinished(job: Job, shard: int, kinds: frozenset[str] | None) -> bool:
    """Whether a shard has inputs to label; `kinds` as in `WorkerSpec`."""
    done = job.shard_file(shard).exists()
    if kinds is None:
        return not done
    return done and not kinds.isdisjoint(job.counts(shard).errors)


def work(job: Job, shards: Iterable[int], spec: WorkerSpec, label: Callable[[Item], Row], limit: Limit) -> Steps:
    """Label the inputs of claimed shards, read lazily; write each shard when it is complete, and release its claim.

    `label` is called from several threads. If it raises, or the limit of errors is reached, shards that are written
    stay.
    """
    rows: dict[int, Row] = {}
    tasks = (task for shard in shards for task in _tasks(job, shard, spec.kinds))
    for task, row in ordered(lambda task: (task, label(task.item)), tasks, spec.server.concurrency):
        rows[task.index] = row
        limit.count(row)
        written = None
        if task.last:
            if len(rows) < job.plan.rows(task.shard):
                rows = dict(enumerate(job.read(task.shard).to_pylist())) | rows
            total = job.write(task.shard, [rows[index] for index in sorted(rows)], spec.schema)
            job.claims.free(task.shard)
            written, rows = ShardResult(task.shard, total), {}
        yield [row], written


@dataclass(frozen=True)
class _Task:
    shard: int
    index: int
    item: Item
    last: bool


def _tasks(job: Job, shard: int, kinds: frozenset[str] | None) -> Iterator[_Task]:
    items = list(enumerate(job.plan.items(shard)))
    if kinds is not None:
        errors = job.read(shard).column("error_kind").to_pylist()
        items = [(index, item) for index, item in items if errors[index] in kinds]
    for index, item in items:
        yield _Task(shard, index, item, index == items[-1][0])
