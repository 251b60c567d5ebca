"""The server under load: one that we start on a model repository, or one that runs already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tritonclient.grpc as triton
from mlclip_client import Client, ClientError
from mlclip_serve import ServeError, Server
from tritonclient.utils import InferenceServerException

from mlclip_bench.load.define import LoadError
from mlclip_bench.load.server_counters import ensemble_steps

CHANNEL = [("grpc.enable_http_proxy", 0)]
_TIMEOUT = 30.0
_START = 600.0


@dataclass(frozen=True)
class Target:
    """A server that answers.

    Attributes:
        name: of the repository's folder, or the address.
        url: host:port of its gRPC endpoint.
        pid: its process; None where we have not started it.
        metrics: host:port of its metrics, or None.
        heads: names of the heads that it serves.
        ensembles: name of each ensemble -> the models that it strings together.
        contents: name of each ensemble -> digest of everything behind it.
    """

    name: str
    url: str
    pid: int | None
    metrics: str | None
    heads: tuple[str, ...]
    ensembles: dict[str, tuple[str, ...]]
    contents: dict[str, str]

    def choose(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """Give the heads to ask: those that are wanted, or all.

        Raises:
            LoadError: one is not served.
        """
        served = ", ".join(self.heads) or "none"
        missing = [name for name in wanted or () if name not in self.heads]
        if missing or not self.heads:
            raise LoadError(f"the server has no head {', '.join(missing) or 'at all'} (it has: {served}); see --heads")
        return tuple(dict.fromkeys(wanted)) if wanted else self.heads


@contextmanager
def started(repository: Path) -> Iterator[Target]:
    """Serve a repository on this machine, on free ports, for the time of the context.

    Raises:
        LoadError: it cannot be served.
    """
    server = Server(repository, ready_timeout=_START)
    try:
        server.start()
    except ServeError as error:
        log = f" (Triton's log: {error.log})" if error.log else ""
        raise LoadError(f"{error}{log}") from error
    try:
        yield _look(str(repository), server.grpc_url, server.pid, server.metrics_url)
    finally:
        server.stop()


@contextmanager
def running(url: str, metrics: str | None) -> Iterator[Target]:
    """Take a server that somebody else has started.

    Raises:
        LoadError: nobody answers there, or not a server of this kind.
    """
    yield _look(url, url, None, metrics)


def _look(name: str, url: str, pid: int | None, metrics: str | None) -> Target:
    try:
        with Client(url, timeout=_TIMEOUT) as client:
            heads = tuple(head.name for head in client.heads())
        configs = _configs(url)
    except (ClientError, InferenceServerException) as error:
        raise LoadError(f"{error}; start one with `mlclip-serve`, or name --repository") from error
    ensembles = {config.name: steps for config in configs if (steps := ensemble_steps(config))}
    contents = {
        config.name: config.parameters["content_sha256"].string_value for config in configs if config.name in ensembles
    }
    return Target(name, url, pid, metrics, heads, ensembles, contents)


def _configs(url: str) -> list[Any]:
    with triton.InferenceServerClient(url, channel_args=CHANNEL) as client:
        index = client.get_model_repository_index(client_timeout=_TIMEOUT)
        names = sorted({model.name for model in index.models if model.state == "READY"})
        return [client.get_model_config(name, client_timeout=_TIMEOUT).config for name in names]
