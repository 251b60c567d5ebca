"""What the bulk tool is asked to do, and what it reports at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlclip_client.inputs import InputOptions, Limits, Skipped
from mlclip_client.inputs.texts import Texts
from mlclip_client.output.rows import RowOptions
from mlclip_client.output.tally import Tally
from mlclip_client.server.catalog import Via
from mlclip_client.server.transport import DEFAULT_URL


@dataclass(frozen=True)
class Endpoints:
    """Servers, host:port with commas between them, and the deadline of each request in seconds."""

    url: str = DEFAULT_URL
    timeout: float = 30.0

    @property
    def urls(self) -> tuple[str, ...]:
        """One host:port per server."""
        return tuple(filter(None, map(str.strip, self.url.split(","))))


@dataclass(frozen=True)
class ServerOptions(Endpoints):
    """How images get their answers."""

    retry_seconds: float = 60.0  # see `Client`
    concurrency: int = 32  # inputs in work at once
    via: Via = "bytes"
    # folder of a model repository whose models answer in this process, in place of the servers
    embedded: Path | None = None
    threads: int = 0  # onnxruntime's, per embedded model; 0: one per core


@dataclass(frozen=True)
class JobOptions:
    """How a job is worked on."""

    max_failures: int = 1000  # errors in a row after which the job stops; 0: never
    engine: Literal["local", "ray"] = "local"  # `local`, this process, or `ray`, a Ray cluster
    # of the cluster, as `ray.init` takes it; None: what the environment says, or this machine
    ray_address: str | None = None
    ray_workers: int = 0  # the most there may be; 0: as many as the cluster has cores

    def __post_init__(self) -> None:
        if self.engine != "ray" and (self.ray_address is not None or self.ray_workers):
            raise ValueError("--ray-address and --ray-workers go with --engine ray")


@dataclass(frozen=True)
class MonitorOptions:
    """How a run can be watched."""

    metrics_port: int | None = None  # port on which Prometheus finds metrics; None: there are none
    metrics_host: str = "127.0.0.1"  # address to bind for that port
    log: Path | None = None  # file to which events are appended, one JSON object per line


@dataclass(frozen=True)
class Request:
    """What is to be labelled, and how."""

    names: tuple[str, ...]  # of inputs, see `find_inputs`
    heads: tuple[str, ...] | None = None  # names; None: the only one that is served
    columns: RowOptions = field(default_factory=RowOptions)
    inputs: InputOptions = field(default_factory=InputOptions)
    limits: Limits = field(default_factory=Limits)
    texts: Path | None = None  # file with titles, see `Texts`
    shard_rows: int = 1000  # inputs per shard of a new job


@dataclass
class Summary:
    """What is reported at the end of a run."""

    tally: Tally = field(default_factory=Tally)  # of the rows of this run
    skipped: Skipped | None = None  # what the search for inputs skipped; None without a search
    texts: Texts | None = None
    interrupted: bool = False  # stopped by Ctrl-C or SIGTERM
    job: tuple[Tally, int] | None = None  # counts of all rows of the job, and its number of inputs; None without a job
