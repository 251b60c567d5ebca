"""A job on a Ray cluster: Ray Data gives its shards to workers on the nodes (`pip install 'mlclip-client[ray]'`).

The job's folder, its inputs and, without a server, the model repository are on storage that all nodes share under the
same paths. Each worker writes its shards there itself and sends only counts and errors back. If a node dies, its
unfinished shards are labelled on other nodes, but finished ones are not labelled again. So every input has one row.

The process that calls holds the claims on all these shards until it ends, so no other process takes them meanwhile.
"""

import contextlib
import importlib
import json
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlclip_client.bulk.backends import open_backend
from mlclip_client.bulk.known import read_known
from mlclip_client.bulk.labeller import Labeller
from mlclip_client.bulk.limit import Limit
from mlclip_client.errors import ClientError, JobError, error_class
from mlclip_client.inputs import Reader
from mlclip_client.jobs.folder import Job
from mlclip_client.jobs.worker import ShardResult, Steps, WorkerSpec, claimed, is_unfinished, work
from mlclip_client.options import JobOptions
from mlclip_client.output.cache import AnswerCache
from mlclip_client.output.rows import Row
from mlclip_client.output.tally import Tally

_MOST_BLOCKS = 2000  # shards are sent one by one, but not in more blocks than this: Ray Data keeps state for each block
_OF_ERRORS = ("path", "error_kind", "error")
"""Columns that are sent back of rows with an error; of the others, only that there is no error."""


def work_on_ray(job: Job, spec: WorkerSpec, job_options: JobOptions) -> Steps:
    """Label the inputs of all shards that no other process has; of rows only the columns about errors come back.

    Raises JobError if a worker has reached its limit of errors or does not find the job, ClientError if Ray cannot be
    used, or what ended a worker.
    """
    shards = list(claimed(job, spec.kinds))
    if not shards:
        return
    if spec.server.embedded is not None:
        spec = replace(spec, server=replace(spec.server, embedded=spec.server.embedded.absolute()))
    threads = max(1, spec.server.threads)
    with _connected(job_options.ray_address) as ray:
        workers = job_options.ray_workers or int(ray.cluster_resources().get("CPU", 1)) // threads
        data = ray.data.from_items([{"shard": n} for n in shards], override_num_blocks=min(len(shards), _MOST_BLOCKS))
        results = data.map_batches(
            Worker,
            fn_constructor_args=(str(job.folder.absolute()), spec),
            batch_size=1,
            num_cpus=threads,
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=max(1, min(workers, len(shards))), max_tasks_in_flight_per_actor=1
            ),
        )
        for result in results.iter_rows():
            answer = json.loads(result["answer"])
            if stopped := answer.get("stopped"):
                raise error_class(stopped["kind"])(stopped["message"])
            yield answer["rows"], ShardResult(answer["shard"], Tally.from_json(answer["total"]), answer["node"])


class Worker:
    """Runs in a Ray actor on a node; opens the job with its first shard."""

    def __init__(self, folder: str, spec: WorkerSpec) -> None:
        self._folder, self._spec, self._limit = Path(folder), spec, Limit(spec.max_failures)
        self._open: tuple[Job, Labeller] | None = None

    def __call__(self, batch: dict[str, npt.NDArray[np.int64]]) -> dict[str, list[str]]:
        """Label the shard of a batch of one; the answer also carries errors, because Ray would retry exceptions."""
        try:
            answer = self._label(int(batch["shard"][0]))
        except (ClientError, OSError, ValueError) as error:
            kind = error.kind if isinstance(error, ClientError) else JobError.kind
            answer = {"stopped": {"kind": kind, "message": f"{error} (on {socket.gethostname()})"}}
        return {"answer": [json.dumps(answer)]}

    def _label(self, shard: int) -> dict[str, Any]:
        if self._open is None:
            self._open = self._opened()
        (job, labeller), kinds = self._open, self._spec.kinds
        saved, retries, rows = labeller.cache.saved, labeller.backend.transport.retries, list[Row]()
        if is_unfinished(job, shard, kinds):
            for labelled, _ in work(job, [shard], self._spec, labeller.label, self._limit):
                rows += map(_without_answers, labelled)
        elif kinds is None:  # the node that wrote it died before it could answer
            rows = job.read(shard).select(_OF_ERRORS).to_pylist()
        total = job.counts(shard)
        total.saved, total.retries = labeller.cache.saved - saved, labeller.backend.transport.retries - retries
        node = importlib.import_module("ray").get_runtime_context().get_node_id()
        return {"shard": shard, "rows": rows, "total": total.to_json(), "node": node}

    def _opened(self) -> tuple[Job, Labeller]:
        if not (self._folder / "job.json").exists():
            raise JobError(f"there is no job in {self._folder}: on Ray, all nodes need it under the same path")
        job, request = Job(self._folder), self._spec.request
        backend = open_backend(request, self._spec.server).__enter__()  # until Ray ends the process
        reader, known = Reader(request.limits), read_known(request.known)
        return job, Labeller(backend, reader, AnswerCache(), request.columns, self._spec.pinned, known)


def _without_answers(row: Row) -> Row:
    return {name: row[name] for name in _OF_ERRORS} if row["error_kind"] else {"error_kind": None}


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors that matter come as exceptions
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise ClientError("--engine ray needs Ray: pip install 'mlclip-client[ray]'") from error
    try:
        _check_listening(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise ClientError(f"no Ray cluster answers at {address or 'this machine'}: {error}") from error
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield ray
    finally:
        ray.shutdown()


def _check_listening(address: str | None) -> None:
    """Raise OSError if nothing listens at host:port; Ray itself would wait for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
