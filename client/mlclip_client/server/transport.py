"""How requests travel: blocking or asyncio, behind one small protocol.

All logic is written as coroutines over a `Transport`. Over `BlockingTransport` they never wait for an event loop, so
`finish` runs one to its end without any.

The stubs and messages are tritonclient's. Its client classes are not used: they are not made for calls from several
threads, while gRPC channels are.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2_grpc

from mlclip_client.errors import from_rpc
from mlclip_client.options import Security

T = TypeVar("T")
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # a crawler's web proxy is not the way to its own server
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # in fact the timeout of an attempt to connect
    ("grpc.max_reconnect_backoff_ms", 2000),  # gRPC's default would wait up to two minutes
]

_NAMED = re.compile(r"(unix|unix-abstract|vsock|dns|ipv4|ipv6):", re.IGNORECASE)
"""How addresses begin that gRPC parses itself."""


class Transport(Protocol):
    """Carries requests to a server, and blocking work to where it may block."""

    @property
    def drops(self) -> int:
        """How many times the connection was lost; unchanged means the server process is still the same."""

    async def call(self, rpc: str, request: Any) -> Any:
        """Send a request with its deadline and give the reply; raises ClientError."""

    async def work(self, function: Callable[[], T]) -> T:
        """Run a function that reads files or computes."""

    async def pause(self, seconds: float) -> None:
        """Wait, at most until the transport is closed."""


class BlockingTransport:
    """A gRPC channel for threads; every call blocks the thread that makes it.

    Args:
        url: host:port of Triton's gRPC endpoint.
        timeout: deadline of each request, in seconds.
        security: its files are read here; raises OSError, or ValueError for a line that is no header.
    """

    def __init__(self, url: str, timeout: float, security: Security) -> None:
        self._url, self._timeout = _check_address(url), _check_timeout(timeout)
        self._channel = _opener(grpc, security)(url)
        self._headers = _headers(security)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._closed = threading.Event()
        self._drops, self._ready = 0, False

    @property
    def drops(self) -> int:
        """How many times the connection was lost."""
        if self._ready and not _is_ready(self._channel):
            self._drops, self._ready = self._drops + 1, False
        return self._drops

    async def call(self, rpc: str, request: Any) -> Any:
        """Send a request, wait for its reply."""
        try:
            reply = getattr(self._stub, rpc)(request, timeout=self._timeout, metadata=self._headers)
        except grpc.RpcError as error:
            raise from_rpc(error, self._url, self._timeout) from error
        self._ready = True
        return reply

    async def work(self, function: Callable[[], T]) -> T:
        """Run the function here."""
        return function()

    async def pause(self, seconds: float) -> None:
        """Block the calling thread."""
        self._closed.wait(seconds)

    def close(self) -> None:
        """Close the channel; calls under way fail."""
        self._closed.set()
        self._channel.close()


class AsyncTransport:
    """A gRPC channel of the running event loop, opened at the first call; arguments as for `BlockingTransport`."""

    def __init__(self, url: str, timeout: float, security: Security) -> None:
        self._url, self._timeout = _check_address(url), _check_timeout(timeout)
        self._open, self._headers = _opener(grpc.aio, security), _headers(security)
        self._channel: Any = None
        self._stub: Any = None
        self._drops, self._ready = 0, False

    @property
    def drops(self) -> int:
        """How many times the connection was lost."""
        if self._ready and self._channel.get_state() is not grpc.ChannelConnectivity.READY:
            self._drops, self._ready = self._drops + 1, False
        return self._drops

    async def call(self, rpc: str, request: Any) -> Any:
        """Send a request, await its reply."""
        if self._channel is None:
            self._channel = self._open(self._url)
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        try:
            reply = await getattr(self._stub, rpc)(request, timeout=self._timeout, metadata=self._headers)
        except grpc.RpcError as error:
            raise from_rpc(error, self._url, self._timeout) from error
        self._ready = True
        return reply

    async def work(self, function: Callable[[], T]) -> T:
        """Run the function in asyncio's thread pool."""
        return await asyncio.to_thread(function)

    async def pause(self, seconds: float) -> None:
        """Let others run meanwhile."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the channel; calls under way fail."""
        if self._channel is not None:
            await self._channel.close()


def _opener(module: Any, security: Security) -> Callable[[str], Any]:
    """How to open a channel of `grpc` or `grpc.aio`."""
    if not security.tls:
        return partial(module.insecure_channel, options=_OPTIONS)
    files = (security.tls_ca, security.tls_key, security.tls_cert)
    credentials = grpc.ssl_channel_credentials(*(None if file is None else file.read_bytes() for file in files))
    return partial(module.secure_channel, credentials=credentials, options=_OPTIONS)


def _headers(security: Security) -> list[tuple[str, str]]:
    lines = security.headers.read_text(encoding="utf-8").splitlines() if security.headers else []
    pairs = [line.partition(":") for line in lines if line.strip()]
    for number, (name, _, value) in enumerate(pairs, 1):
        if not re.fullmatch("[0-9A-Za-z_.-]+", name) or not value.strip().isascii() or not value.strip().isprintable():
            raise ValueError(f"{security.headers}, line {number}: no header: write `name: value` in ASCII")
    return [(name.lower(), value.strip()) for name, _, value in pairs]


def _check_address(url: str) -> str:
    host, _, port = url.rpartition(":")
    if _NAMED.match(url):
        return url
    if "://" in url:
        raise ValueError(f"{url}: give host:port alone, the port of Triton's gRPC, which is 8001 unless set")
    if not host and url != f":{port}":
        raise ValueError(f"{url} has no port: give host:port, such as {url}:8001")
    if not host or ":" in host and not (host[0] == "[" and host[-1] == "]"):
        raise ValueError(f"{url} is no endpoint: give host:port, an IPv6 address in brackets, such as [::1]:8001")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{url} is no endpoint: give host:port, the port a number from 1 to 65535")
    return url


def _check_timeout(timeout: float) -> float:
    if not 0 < timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout must be more than 0 seconds, and finite, not {timeout}")
    return timeout


def _is_ready(channel: Any) -> bool:
    """Whether a blocking channel is connected.

    gRPC offers this for asyncio only. Its `subscribe` needs a thread, which fails when the channel is closed.
    """
    check = getattr(getattr(channel, "_channel", None), "check_connectivity_state", None)
    ready: int = grpc.ChannelConnectivity.READY.value[0]
    return check is None or check(False) == ready


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine over a BlockingTransport, which never waits for an event loop, and give its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a coroutine over a blocking transport tried to wait for an event loop")
