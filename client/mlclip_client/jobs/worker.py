"""The loop of a worker: claim shards, label their inputs, write their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa  # type: ignore[import-untyped]

from mlclip_client.errors import JobError
from mlclip_client.inputs.item import Item
from mlclip_client.jobs.folder import Counts, Job
from mlclip_client.ordered import ordered
from mlclip_client.output.rows import Row

Kinds = frozenset[str] | None
"""Which inputs are to be labelled: those of finished shards with an error of these kinds; None: unfinished shards."""


@dataclass(frozen=True)
class Task:
    """One input of a shard under work."""

    shard: int
    index: int
    item: Item
    last: bool


@dataclass
class Limit:
    """Stops a job that is plainly broken.

    Attributes:
        most: inputs with an error, one after the other, after which it stops; 0: never.
    """

    most: int
    _in_a_row: int = field(default=0, init=False)

    def count(self, row: Row) -> None:
        """Count a row; raises JobError."""
        self._in_a_row = self._in_a_row + 1 if row["error_kind"] else 0
        if self.most and self._in_a_row >= self.most:
            raise JobError(
                f"stopped after {self._in_a_row:,} errors in a row, the last one {row['error_kind']}: {row['error']}; "
                "what is done is kept: mend the cause and give the same command again, or raise --max-failures"
            )


@dataclass(frozen=True)
class WorkerContext:
    """How shards are worked on.

    Attributes:
        label: gives an input's row; called from several threads.
        schema: of the rows.
        limit: when to stop.
        threads: inputs under work at once.
        after_each: told of each row, in order.
        after_shard: told of each shard that was written, and what came of it.
    """

    label: Callable[[Item], Row]
    schema: pa.Schema
    limit: Limit
    threads: int
    after_each: Callable[[Row], None]
    after_shard: Callable[[int, Counts], None]


def claimed(job: Job, kinds: Kinds) -> Iterator[int]:
    """Claim shards that have something to be done, one by one, but not those that another process has.

    Args:
        job: a job that has begun.
        kinds: what is to be done.
    """
    for shard in range(job.plan.shards):
        if not has_work(job, shard, kinds) or not job.claims.take(shard):
            continue
        if has_work(job, shard, kinds):
            job.sweep(shard)
            yield shard
        else:  # another worker has just done it
            job.claims.free(shard)


def has_work(job: Job, shard: int, kinds: Kinds) -> bool:
    """Whether a shard has something to be done; see `claimed`."""
    done = job.shard_file(shard).exists()
    if kinds is None:
        return not done
    return done and not kinds.isdisjoint(job.counts(shard).errors or ())


def work(job: Job, shards: Iterable[int], kinds: Kinds, doing: WorkerContext) -> None:
    """Label what is to be done in some shards, write each shard when all of it is, and give its claim back.

    Args:
        job: a job that has begun.
        shards: those that are claimed; read by another thread, as the work goes on.
        kinds: what is to be done.
        doing: how.

    Raises:
        JobError: the limit was reached; or what `label` raises. Shards that are written stay.
    """
    rows: dict[int, Row] = {}
    tasks = (task for shard in shards for task in _tasks(job, shard, kinds))
    for task, row in ordered(lambda task: (task, doing.label(task.item)), tasks, doing.threads):
        rows[task.index] = row
        doing.limit.count(row)
        doing.after_each(row)
        if task.last:
            complete = rows if len(rows) == job.plan.rows(task.shard) else _known(job, task.shard) | rows
            counts = job.write(task.shard, [complete[index] for index in sorted(complete)], doing.schema)
            job.claims.free(task.shard)
            doing.after_shard(task.shard, counts)
            rows = {}


def _tasks(job: Job, shard: int, kinds: Kinds) -> Iterator[Task]:
    items = list(enumerate(job.plan.items(shard)))
    if kinds is not None:
        found = job.read(shard).column("error_kind").to_pylist()
        items = [(index, item) for index, item in items if found[index] in kinds]
    for index, item in items:
        yield Task(shard, index, item, index == items[-1][0])


def _known(job: Job, shard: int) -> dict[int, Row]:
    return dict(enumerate(job.read(shard).to_pylist()))
