"""What can be asked of the client, as plain values: importing them costs a command line nothing."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

Via = Literal["bytes", "pixels"]
DEFAULT_URL = "127.0.0.1:8001"
"""Where Triton listens for gRPC unless told otherwise."""
MAX_BYTES = 64 * 2**20
"""Files over this size are refused unless `max_bytes` says otherwise."""
USER_AGENT = f"mlclip-client/{version('mlclip-client')}"
"""How the client introduces itself to sites by default."""
REPORT_ROWS = 50_000
"""The most rows that a report shows unless told otherwise."""


@dataclass(frozen=True)
class InputOptions:
    """How names become inputs.

    Attributes:
        column: name of the manifests' column of paths, addresses or bytes; None: the one whose name is known.
        null: names in lists (`-` and .txt) end with NUL instead of a newline, as `find -print0` writes them.
    """

    column: str | None = None
    null: bool = False


@dataclass(frozen=True)
class Limits:
    """Limits of what is read, and politeness towards sites.

    Attributes:
        max_bytes: size of the largest file that is read.
        download_seconds: time limit of a download, redirects and retries included.
        redirects: how many are followed.
        connections: downloads at once.
        per_host: downloads at once from one host.
        private: allow addresses outside the public internet, and protocols that reach machines without a check of
            their address (ftp, sftp, …).
        ignore_robots: also use a response whose `X-Robots-Tag` says `noindex`, `none`, `noai` or `noimageai`.
        user_agent: sent with each request; the part before a slash is the name that `X-Robots-Tag` may address.
        proxy: `http://host:port`, or `socks5h://host:port` such as Tor's, of a proxy for http and https; proxies of the
            environment are never used. A proxy resolves names itself, so only hosts written as numbers can be checked;
            it should refuse private addresses.
    """

    max_bytes: int = MAX_BYTES
    download_seconds: float = 30.0
    redirects: int = 5
    connections: int = 32
    per_host: int = 4
    private: bool = False
    ignore_robots: bool = False
    user_agent: str = USER_AGENT
    proxy: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_bytes", "connections", "per_host"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.download_seconds <= threading.TIMEOUT_MAX:
            raise ValueError(f"download_seconds must be more than 0, and finite, not {self.download_seconds}")
        if self.redirects < 0:
            raise ValueError(f"redirects must be at least 0, not {self.redirects}")
        if self.proxy is not None and not self.proxy.lower().startswith(("http://", "https://", "socks5h://")):
            raise ValueError(f"proxy {self.proxy}: write http://host:port, https://host:port or socks5h://host:port")
        if not self.user_agent.strip() or not self.user_agent.isascii() or not self.user_agent.isprintable():
            raise ValueError(f"user_agent must be printable ASCII, not {self.user_agent!r}")


@dataclass(frozen=True)
class RowOptions:
    """Which columns rows have.

    Attributes:
        top_k: number of best labels to list, selected or not.
        scores: add all N scores, in class order.
        embeddings: add the image's embedding.
        explain: add the references behind each answer.
    """

    top_k: int = 5
    scores: bool = False
    embeddings: bool = False
    explain: bool = False


@dataclass(frozen=True)
class Security:
    """How connections to servers, or to a proxy before them, are protected.

    Attributes:
        tls: encrypt, and check the server's certificate.
        tls_ca: PEM file of the authorities to trust; None: those that gRPC knows.
        tls_cert, tls_key: PEM files of this client's certificate and its key, for servers that ask for one.
        headers: file with headers to send with each request, one `name: value` per line.
    """

    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    headers: Path | None = None

    def __post_init__(self) -> None:
        if not self.tls and (self.tls_ca or self.tls_cert or self.tls_key):
            raise ValueError("certificates and keys are for TLS connections: add --tls (tls=True)")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("a client's certificate and its key go together: give both --tls-cert and --tls-key")


@dataclass(frozen=True)
class Endpoints(Security):
    """Servers, host:port with commas between them, and the deadline of each request in seconds."""

    url: str = DEFAULT_URL
    timeout: float = 30.0

    @property
    def urls(self) -> tuple[str, ...]:
        """One host:port per server."""
        return tuple(filter(None, map(str.strip, self.url.split(","))))


@dataclass(frozen=True)
class ServerOptions(Endpoints):
    """How images get their answers.

    Attributes:
        retry_seconds: see `Client`.
        concurrency: inputs in work at once.
        embedded: folder of a model repository whose models answer in this process, in place of the servers.
        threads: per embedded model; 0: one per core.
    """

    retry_seconds: float = 60.0
    concurrency: int = 32
    via: Via = "bytes"
    embedded: Path | None = None
    threads: int = 0


@dataclass(frozen=True)
class JobOptions:
    """How a job is worked on.

    Attributes:
        max_failures: errors in a row after which the run stops, without a job only those of the server; 0: never.
        engine: `local`, this process, or `ray`, a Ray cluster.
        ray_address: of the cluster, as `ray.init` takes it; None: what the environment says, or this machine.
        ray_workers: the most there may be; 0: as many as the cluster has cores.
    """

    max_failures: int = 1000
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    ray_workers: int = 0

    def __post_init__(self) -> None:
        if self.engine != "ray" and (self.ray_address is not None or self.ray_workers):
            raise ValueError("--ray-address and --ray-workers go with --engine ray")


@dataclass(frozen=True)
class MonitorOptions:
    """How a run can be watched.

    Attributes:
        metrics_port: port on which Prometheus finds metrics; None: there are none.
        metrics_host: address to bind for that port.
        log: file to which events are appended, one JSON object per line.
    """

    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    log: Path | None = None
