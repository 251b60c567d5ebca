"""The server under load: one that we start on a model repository, or one that is running already."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
    """A server that answers."""

    name: str  # the folder of the repository, or the address
    url: str  # host:port of its gRPC endpoint; `metrics` is that of its metrics, or None
    pid: int | None  # its process; None where we have not started it
    metrics: str | None
    heads: tuple[str, ...]  # names of the served heads
    ensembles: dict[str, tuple[str, ...]]  # name of each ensemble -> its models
    contents: dict[str, str]  # name of each ensemble -> digest of everything behind it

    def choose(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """The heads to ask: the wanted ones, or all; raises LoadError if one is not served."""
        served = ", ".join(self.heads) or "none"
        missing = [name for name in wanted or () if name not in self.heads]
        if missing or not self.heads:
            raise LoadError(f"the server has no head {', '.join(missing) or 'at all'} (it has: {served}); see --heads")
        return tuple(dict.fromkeys(wanted)) if wanted else self.heads


@contextmanager
def started(repository: Path) -> Iterator[Target]:
    """Serve a repository on this machine, on free ports, inside the context; raises LoadError if that fails."""
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
    """Use a server that is running already; raises LoadError if none answers."""
    yield _look(url, url, None, metrics)


def _look(name: str, url: str, pid: int | None, metrics: str | None) -> Target:
    try:
        with Client(url, timeout=_TIMEOUT) as client:
            heads = tuple(head.name for head in client.heads())
        with triton.InferenceServerClient(url, channel_args=CHANNEL) as server:
            index = server.get_model_repository_index(client_timeout=_TIMEOUT)
            names = sorted({model.name for model in index.models if model.state == "READY"})
            configs = [server.get_model_config(name, client_timeout=_TIMEOUT).config for name in names]
    except (ClientError, InferenceServerException) as error:
        raise LoadError(f"{error}; start one with `mlclip-serve`, or name --repository") from error
    ensembles = {config.name: steps for config in configs if (steps := ensemble_steps(config))}
    contents = {
        config.name: config.parameters["content_sha256"].string_value for config in configs if config.name in ensembles
    }
    return Target(name, url, pid, metrics, heads, ensembles, contents)
