"""A job on a Ray cluster: Ray Data hands its shards to workers on the nodes (`pip install 'mlclip-client[ray]'`).

The job's folder, its inputs and, without a server, the model repository lie on storage that all nodes share under the
same paths. Each worker writes its shards there itself; only counts come back. A shard that a node had begun when it
died is done again elsewhere, and a shard that is done is not done again, so every input has one row.

The process that calls holds the claims on all these shards until it ends: neither a second one nor a local worker
takes them meanwhile.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
from PIL import Image

from mlclip_client.asks import open_asks
from mlclip_client.errors import ClientError, JobError, ServerUnavailable
from mlclip_client.findings import Findings
from mlclip_client.inputs import Reader
from mlclip_client.jobs.folder import Job
from mlclip_client.jobs.run import Limit
from mlclip_client.labeller import Labeller, Pin
from mlclip_client.ordered import ordered
from mlclip_client.settings import Asking, OnRay, Wanted

_MOST_BLOCKS = 2000
"""Shards travel one by one, unless there are more than this: Ray Data keeps an account of each."""


@dataclass(frozen=True)
class Doing:
    """How workers label, in values that can be sent to them.

    Attributes:
        wanted: what.
        asking: how.
        pinned: versions that answers must come from.
        schema: of the rows.
        most_failures: see `Limit`; each worker counts its own.
    """

    wanted: Wanted
    asking: Asking
    pinned: dict[str, Pin]
    schema: pa.Schema
    most_failures: int


@dataclass(frozen=True)
class Done:
    """What came of a shard.

    Attributes:
        shard: which.
        rows: how many.
        failures: path, kind and message of those with an error.
        saved: see `Findings`.
        retries: see `Balanced`.
        node: that did it, as Ray names it.
        stopped: kind and message of what ends the job, instead of all this.
    """

    shard: int
    rows: int = 0
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    saved: int = 0
    retries: int = 0
    node: str = ""
    stopped: tuple[str, str] | None = None


def work_on_ray(job: Job, doing: Doing, cluster: OnRay, after_shard: Callable[[Done], None]) -> None:
    """Label all inputs of a job that are not done and not with another process.

    Args:
        job: a job that has begun.
        doing: how.
        cluster: where.
        after_shard: told of each shard that was written.

    Raises:
        JobError: a worker has reached its limit of failures, or does not see the job.
        ClientError: what ends a worker of this machine ends the job here, too; or Ray cannot be used.
    """
    shards = [shard for shard in job.open_shards() if job.claims.take(shard) and not job.shard_file(shard).exists()]
    if not shards:
        return
    for shard in shards:
        job.sweep(shard)
    threads = max(1, doing.asking.threads)
    with _connected(cluster) as ray:
        workers = cluster.workers or int(ray.cluster_resources().get("CPU", 1)) // threads
        data = ray.data.from_items([{"shard": n} for n in shards], override_num_blocks=min(len(shards), _MOST_BLOCKS))
        done = data.map_batches(
            Worker,
            fn_constructor_args=(str(job.folder.absolute()), doing),
            batch_size=1,
            num_cpus=threads,
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=max(1, min(workers, len(shards))), max_tasks_in_flight_per_actor=1
            ),
        )
        for row in done.iter_rows():
            found = Done(**json.loads(row["done"]))
            if found.stopped is not None:
                kind, message = found.stopped
                raise (ServerUnavailable if kind == ServerUnavailable.kind else JobError)(message)
            after_shard(found)


class Worker:
    """What Ray keeps on a node: opens what it needs at its first shard.

    Args:
        folder: of the job.
        doing: how.
    """

    def __init__(self, folder: str, doing: Doing) -> None:
        self._folder, self._doing = Path(folder), doing
        self._limit = Limit(doing.most_failures)
        self._job: Job | None = None

    def __call__(self, batch: dict[str, npt.NDArray[np.int64]]) -> dict[str, list[str]]:
        """Do the shard of a batch of one; what went wrong for good is in the answer, since Ray tries again else."""
        shard = int(batch["shard"][0])
        try:
            done = self._do(shard)
        except (ClientError, OSError, ValueError) as error:
            kind = error.kind if isinstance(error, ClientError) else "job"
            done = Done(shard, stopped=(kind, f"{error} (on {socket.gethostname()})"))
        return {"done": [json.dumps(asdict(done))]}

    def _do(self, shard: int) -> Done:
        if self._job is None:
            self._open()
        assert self._job is not None
        job, labeller = self._job, self._labeller
        saved, retries = labeller.findings.saved, labeller.client.transport.retries
        if not job.shard_file(shard).exists():  # else a node did it that died before it could say so
            rows = []
            for row in ordered(labeller.label, job.plan.items(shard), self._doing.asking.concurrency):
                self._limit.count(row)
                rows.append(row)
            job.write(shard, rows, self._doing.schema)
        found = job.read(shard).select(["path", "error_kind", "error"]).to_pylist()
        return Done(
            shard,
            len(found),
            [tuple(row.values()) for row in found if row["error_kind"]],
            labeller.findings.saved - saved,
            labeller.client.transport.retries - retries,
            importlib.import_module("ray").get_runtime_context().get_node_id(),
        )

    def _open(self) -> None:
        if not (self._folder / "job.json").exists():
            raise JobError(f"there is no job in {self._folder}: on Ray, all nodes need it under the same path")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # it becomes an error row
        job, wanted = Job(self._folder), self._doing.wanted
        os.chdir((job.asked or {})["folder"])
        client = open_asks(wanted, self._doing.asking).__enter__()  # until Ray ends the process
        self._labeller = Labeller(
            client, Reader(wanted.limits), Findings(), wanted.columns, self._doing.pinned, goes_on=False
        )
        self._job = job


@contextlib.contextmanager
def _connected(cluster: OnRay) -> Iterator[Any]:
    """Give the module `ray`, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters comes as an exception
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise ClientError("--engine ray needs Ray: pip install 'mlclip-client[ray]'") from error
    try:
        _knock(cluster.address)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise ClientError(f"no Ray cluster answers at {cluster.address or 'this machine'}: {error}") from error
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise OSError where nobody listens at host:port, for which Ray itself waits minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
