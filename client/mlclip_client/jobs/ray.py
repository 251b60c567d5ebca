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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
from PIL import Image

from mlclip_client.bulk.backends import open_backend
from mlclip_client.bulk.labeller import Labeller, Pin
from mlclip_client.bulk.request import JobOptions, Request, ServerOptions
from mlclip_client.errors import ClientError, JobError, ServerUnavailable
from mlclip_client.inputs import Reader
from mlclip_client.jobs.folder import Job
from mlclip_client.jobs.worker import Kinds, Limit, WorkerContext, claimed, has_work, work
from mlclip_client.output.cache import AnswerCache
from mlclip_client.output.rows import Row

_MOST_BLOCKS = 2000
"""Shards travel one by one, unless there are more than this: Ray Data keeps an account of each."""
_TOLD = ["path", "error_kind", "error"]


@dataclass(frozen=True)
class WorkerSpec:
    """What workers are to do, in values that can be sent to them.

    Attributes:
        wanted: what.
        asking: how.
        pinned: versions that answers must come from.
        schema: of the rows.
        most_failures: see `Limit`; each worker counts its own.
        kinds: which inputs.
    """

    wanted: Request
    asking: ServerOptions
    pinned: dict[str, Pin]
    schema: pa.Schema
    most_failures: int
    kinds: Kinds


@dataclass(frozen=True)
class ShardResult:
    """What came of a shard.

    Attributes:
        shard: which.
        rows: how many it has.
        errors: kind -> how many of them have an error of it.
        labelled: inputs that have been labelled now.
        failures: `path`, `error_kind` and `error` of those that ended with an error now.
        saved: see `AnswerCache`.
        retries: see `EndpointPool`.
        node: that did it, as Ray names it.
        stopped: kind and message of what ends the job, instead of all this.
    """

    shard: int
    rows: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    labelled: int = 0
    failures: list[Row] = field(default_factory=list)
    saved: int = 0
    retries: int = 0
    node: str = ""
    stopped: tuple[str, str] | None = None

    @property
    def outcomes(self) -> list[Row]:
        """What came of each input, in columns of its row; the labelled ones come first."""
        return [{"error_kind": None}] * self.labelled + self.failures


def work_on_ray(job: Job, orders: WorkerSpec, working: JobOptions, after_shard: Callable[[ShardResult], None]) -> None:
    """Label what is to be done in a job and not with another process.

    Args:
        job: a job that has begun.
        orders: what is to be done, and how.
        working: names the cluster.
        after_shard: told of each shard that was written.

    Raises:
        JobError: a worker has reached its limit of failures, or does not see the job.
        ClientError: what ends a worker of this machine ends the job here, too; or Ray cannot be used.
    """
    shards = list(claimed(job, orders.kinds))
    if not shards:
        return
    if orders.asking.embedded is not None:
        orders = replace(orders, asking=replace(orders.asking, embedded=orders.asking.embedded.absolute()))
    threads = max(1, orders.asking.threads)
    with _connected(working.ray_address) as ray:
        workers = working.ray_workers or int(ray.cluster_resources().get("CPU", 1)) // threads
        data = ray.data.from_items([{"shard": n} for n in shards], override_num_blocks=min(len(shards), _MOST_BLOCKS))
        done = data.map_batches(
            Worker,
            fn_constructor_args=(str(job.folder.absolute()), orders),
            batch_size=1,
            num_cpus=threads,
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=max(1, min(workers, len(shards))), max_tasks_in_flight_per_actor=1
            ),
        )
        for row in done.iter_rows():
            found = ShardResult(**json.loads(row["done"]))
            if found.stopped is not None:
                kind, message = found.stopped
                raise (ServerUnavailable if kind == ServerUnavailable.kind else JobError)(message)
            after_shard(found)


class Worker:
    """What Ray keeps on a node: opens what it needs at its first shard.

    Args:
        folder: of the job.
        orders: what it is to do.
    """

    def __init__(self, folder: str, orders: WorkerSpec) -> None:
        self._folder, self._orders = Path(folder), orders
        self._limit = Limit(orders.most_failures)
        self._job: Job | None = None

    def __call__(self, batch: dict[str, npt.NDArray[np.int64]]) -> dict[str, list[str]]:
        """Do the shard of a batch of one; what went wrong for good is in the answer, since Ray tries again else."""
        shard = int(batch["shard"][0])
        try:
            done = self._do(shard)
        except (ClientError, OSError, ValueError) as error:
            kind = error.kind if isinstance(error, ClientError) else "job"
            done = ShardResult(shard, stopped=(kind, f"{error} (on {socket.gethostname()})"))
        return {"done": [json.dumps(asdict(done))]}

    def _do(self, shard: int) -> ShardResult:
        if self._job is None:
            self._open()
        assert self._job is not None
        job, labeller, orders = self._job, self._labeller, self._orders
        saved, retries, rows = labeller.findings.saved, labeller.client.transport.retries, list[Row]()
        if has_work(job, shard, orders.kinds):
            doing = WorkerContext(
                labeller.label, orders.schema, self._limit, orders.asking.concurrency, rows.append, lambda *_: None
            )
            work(job, [shard], orders.kinds, doing)
        elif orders.kinds is None:  # a node did it that died before it could say so
            rows = job.read(shard).select(_TOLD).to_pylist()
        counts = job.counts(shard)
        failures = [{name: row[name] for name in _TOLD} for row in rows if row["error_kind"]]
        return ShardResult(
            shard,
            counts.rows,
            counts.errors or {},
            len(rows) - len(failures),
            failures,
            labeller.findings.saved - saved,
            labeller.client.transport.retries - retries,
            importlib.import_module("ray").get_runtime_context().get_node_id(),
        )

    def _open(self) -> None:
        if not (self._folder / "job.json").exists():
            raise JobError(f"there is no job in {self._folder}: on Ray, all nodes need it under the same path")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # it becomes an error row
        job, wanted = Job(self._folder), self._orders.wanted
        client = open_backend(wanted, self._orders.asking).__enter__()  # until Ray ends the process
        self._labeller = Labeller(
            client, Reader(wanted.limits), AnswerCache(), wanted.columns, self._orders.pinned, goes_on=False
        )
        self._job = job


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Give the module `ray`, connected to the cluster at an address; see `JobOptions`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters comes as an exception
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise ClientError("--engine ray needs Ray: pip install 'mlclip-client[ray]'") from error
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise ClientError(f"no Ray cluster answers at {address or 'this machine'}: {error}") from error
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
