"""What the bulk tool is asked to do, and what it reports at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mlclip_client.inputs import InputOptions, Limits, Skipped
from mlclip_client.inputs.texts import Texts
from mlclip_client.output.rows import RowOptions
from mlclip_client.output.tally import Tally
from mlclip_client.server.catalog import Via


@dataclass(frozen=True)
class ServerOptions:
    """How the server is asked.

    Attributes:
        urls: endpoints.
        timeout: of a request, in seconds.
        retry_seconds: see `Client`.
        concurrency: inputs under work at once.
        via: who decodes.
        embedded: folder of a model repository whose models answer in this process; None: the server at `urls` does.
        threads: of onnxruntime, for each of those models; 0: one a core.
    """

    urls: tuple[str, ...] = ("127.0.0.1:8001",)
    timeout: float = 30.0
    retry_seconds: float = 60.0
    concurrency: int = 32
    via: Via = "bytes"
    embedded: Path | None = None
    threads: int = 0


@dataclass(frozen=True)
class OnRay:
    """Where a job runs that leaves this machine.

    Attributes:
        address: of the Ray cluster, as `ray.init` takes it; None: what the environment says, or this machine.
        workers: at most; 0: as many as the cluster has cores.
    """

    address: str | None = None
    workers: int = 0


@dataclass(frozen=True)
class JobOptions:
    """How a job is worked on.

    Attributes:
        shard_rows: inputs a shard; only a new job heeds it.
        most_failures: errors in a row after which the job stops; 0: never.
        cluster: does the work; None: this process does.
    """

    shard_rows: int = 1000
    most_failures: int = 1000
    cluster: OnRay | None = None


@dataclass(frozen=True)
class MonitorOptions:
    """How a run can be watched.

    Attributes:
        metrics_port: where Prometheus finds figures; None: nowhere.
        metrics_host: the address to bind.
    """

    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        names: of inputs, see `find_inputs`.
        heads: names; None: the only one.
        columns: of the rows.
        inputs: how inputs are found.
        limits: of reading.
        texts: file with titles.
    """

    names: tuple[str, ...]
    heads: tuple[str, ...] | None = None
    columns: RowOptions = field(default_factory=RowOptions)
    inputs: InputOptions = field(default_factory=InputOptions)
    limits: Limits = field(default_factory=Limits)
    texts: Path | None = None


@dataclass
class Summary:
    """What is reported at the end of a run.

    Attributes:
        tally: of the rows of this run.
        skipped: what the search for inputs skipped; None without a search.
        texts: the titles, if there are any.
        interrupted: stopped by Ctrl-C or SIGTERM.
        job: counts of all rows of the job, and its number of inputs; None without a job.
    """

    tally: Tally = field(default_factory=Tally)
    skipped: Skipped | None = None
    texts: Texts | None = None
    interrupted: bool = False
    job: tuple[Tally, int] | None = None
