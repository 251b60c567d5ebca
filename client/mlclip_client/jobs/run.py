"""The loop of a worker: claim shards, label their inputs, write their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa  # type: ignore[import-untyped]

from mlclip_client.errors import JobError
from mlclip_client.inputs.item import Item
from mlclip_client.jobs.folder import Counts, Job
from mlclip_client.ordered import ordered
from mlclip_client.rows import Row


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
class Doing:
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


def work(job: Job, doing: Doing) -> None:
    """Label all inputs of a job that are not done and not with another worker.

    Args:
        job: a job that has begun.
        doing: how.

    Raises:
        JobError: the limit was reached; or what `label` raises. Shards that are written stay.
    """
    _run(job, _open_tasks(job), doing)


def retry(job: Job, kinds: frozenset[str], doing: Doing) -> None:
    """Label those inputs of finished shards again that ended with an error.

    Args:
        job: a job that has begun.
        kinds: of errors.
        doing: how.

    Raises:
        JobError: see `work`.
    """
    _run(job, _failed_tasks(job, kinds), doing)


def _run(job: Job, tasks: Iterable[Task], doing: Doing) -> None:
    rows: dict[int, Row] = {}
    for task, row in ordered(lambda task: (task, doing.label(task.item)), tasks, doing.threads):
        rows[task.index] = row
        doing.limit.count(row)
        doing.after_each(row)
        if task.last:
            complete = rows if len(rows) == job.plan.rows(task.shard) else _known(job, task.shard) | rows
            job.sweep(task.shard)
            counts = job.write(task.shard, [complete[index] for index in sorted(complete)], doing.schema)
            job.claims.free(task.shard)
            doing.after_shard(task.shard, counts)
            rows = {}


def _open_tasks(job: Job) -> Iterator[Task]:
    for shard in job.open_shards():
        if not job.claims.take(shard):
            continue
        if job.shard_file(shard).exists():  # another worker has just done it
            job.claims.free(shard)
            continue
        last = job.plan.rows(shard) - 1
        for index, item in enumerate(job.plan.items(shard)):
            yield Task(shard, index, item, index == last)


def _failed_tasks(job: Job, kinds: frozenset[str]) -> Iterator[Task]:
    for shard in job.done_shards():
        if not kinds & set(job.counts(shard).errors or {}) or not job.claims.take(shard):
            continue
        found = job.read(shard).column("error_kind").to_pylist()
        wanted = [index for index, kind in enumerate(found) if kind in kinds]
        chosen = set(wanted)
        if not wanted:  # another worker has just mended it
            job.claims.free(shard)
        for index, item in enumerate(job.plan.items(shard)):
            if index in chosen:
                yield Task(shard, index, item, index == wanted[-1])


def _known(job: Job, shard: int) -> dict[int, Row]:
    return dict(enumerate(job.read(shard).to_pylist()))
