"""Downloads over http and https, for addresses that nobody has looked at."""

from __future__ import annotations

import random
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpcore2
import httpx2

from mlclip_client.errors import DownloadFailed, TooLarge
from mlclip_client.inputs.item import shortened
from mlclip_client.inputs.limits import Limits
from mlclip_client.inputs.stores import one_line
from mlclip_client.inputs.web.addresses import CheckedNetwork, Deadline, Resolve, is_closed_literal, not_public, resolve
from mlclip_client.inputs.web.politeness import refusal
from mlclip_client.inputs.web.slots import Slots

_TRIES = 3
_FIRST_PAUSE = 0.5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({429, 502, 503, 504})


class _Again(Exception):
    """It may go better in a while; `after` is how long the site asks to wait, in seconds."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class Web:
    """Fetches files; may be used from several threads.

    Args:
        limits: see `Limits`.
        executor: resolves host names.
        lookup: how they are resolved.
    """

    def __init__(self, limits: Limits, executor: Executor, lookup: Resolve = resolve) -> None:
        self._limits = limits
        self._deadline = Deadline()
        self._slots = Slots(limits.connections, limits.per_host)
        self._closing = threading.Event()
        self._headers = [("User-Agent", limits.user_agent), ("Accept", "*/*"), ("Accept-Encoding", "identity")]
        network = CheckedNetwork(self._deadline, executor, limits.private or limits.proxy is not None, lookup)
        self._pool = _pool(limits, network)

    def fetch(self, url: str) -> bytes:
        """Download a file.

        The time starts when a place is free for the download, and covers redirects and retries. Busy sites and broken
        connections are tried again, up to three times in all, as late as the site asks for.

        Raises:
            DownloadFailed: there is no file, or it may not be had; the message says why.
            TooLarge: it is over `max_bytes`.
        """
        address = _parse(url)
        self._deadline.until = 0.0
        for number in range(_TRIES):
            try:
                return self._follow(address)
            except _Again as again:
                pause = max(again.after, random.uniform(0, _FIRST_PAUSE * 2**number))
                if number + 1 == _TRIES or pause >= self._deadline.until - time.monotonic():
                    raise DownloadFailed(str(again)) from again
                if self._closing.wait(pause):
                    raise DownloadFailed("the download was stopped") from again
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Close all connections and wake who waits for a second try."""
        self._closing.set()
        self._pool.close()

    def _follow(self, url: httpx2.URL) -> bytes:
        for _ in range(self._limits.redirects + 1):
            self._check(url)
            started = bool(self._deadline.until)
            with self._timed(), self._slots.one(url.host, self._deadline.left() if started else None) as got:
                if not got:
                    raise httpcore2.PoolTimeout("no place for the download in time")
                if not started:
                    self._deadline.until = time.monotonic() + self._limits.download_seconds
                answer = self._get(url)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise DownloadFailed(f"more than {self._limits.redirects} redirects")

    def _check(self, url: httpx2.URL) -> None:
        if self._limits.proxy is not None and not self._limits.private and is_closed_literal(url.host):
            raise DownloadFailed(not_public(url.host, url.host))

    def _get(self, url: httpx2.URL) -> bytes | httpx2.URL:
        """One request: the file, or where it is instead."""
        target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        wait = {"timeout": {"pool": self._deadline.left()}}
        with self._pool.stream("GET", target, headers=self._headers, extensions=wait) as response:
            headers = httpx2.Headers(response.headers)
            directive = refusal(headers.get_list("x-robots-tag"), self._limits.user_agent)
            if directive and not self._limits.ignore_robots:
                raise DownloadFailed(f"the site asks not to be indexed (X-Robots-Tag: {directive})")
            if response.status in _REDIRECTS and "location" in headers:
                return _parse(headers["location"], base=url)
            if response.status in _BUSY:
                raise _Again(_status(response.status), _seconds(headers.get("retry-after", "")))
            if response.status != 200:
                raise DownloadFailed(_status(response.status))
            return self._body(response, headers)

    def _body(self, response: httpcore2.Response, headers: httpx2.Headers) -> bytes:
        limit, data = self._limits.max_bytes, bytearray()
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > limit:
            raise TooLarge(f"{int(announced[:20]):,} bytes are over the limit of {limit:,}")
        for chunk in response.iter_stream():
            data += chunk
            if len(data) > limit:
                raise TooLarge(f"the download is over the limit of {limit:,} bytes")
        return _decoded(bytes(data), headers.get("content-encoding", "").strip().lower(), limit)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """What httpcore raises becomes an error that is final, or one that a second try may mend."""
        try:
            yield
        except httpcore2.TimeoutException as error:
            raise DownloadFailed(f"not whole within {self._limits.download_seconds:g} s") from error
        except (httpcore2.NetworkError, httpcore2.RemoteProtocolError, httpcore2.ProxyError) as error:
            raise _Again(f"the connection failed: {one_line(error)}") from error
        except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol) as error:
            raise DownloadFailed(one_line(error)) from error


def _pool(limits: Limits, network: CheckedNetwork) -> httpcore2.ConnectionPool:
    return httpcore2.ConnectionPool(
        ssl_context=httpx2.create_ssl_context(),
        proxy=None if limits.proxy is None else _proxy(limits.proxy),
        max_connections=limits.connections,
        keepalive_expiry=5.0,
        network_backend=network,
    )


def _proxy(address: str) -> httpcore2.Proxy:
    try:
        proxy = httpx2.Proxy(address)
    except (ValueError, httpx2.InvalidURL) as error:
        raise ValueError(f"proxy {address}: {one_line(error)}") from error
    return httpcore2.Proxy(str(proxy.url), auth=proxy.raw_auth)


def _parse(url: str, base: httpx2.URL | None = None) -> httpx2.URL:
    try:
        address = httpx2.URL(url) if base is None else base.join(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise DownloadFailed(f"not an address: {one_line(error)}") from error
    if address.scheme not in ("http", "https"):
        raise DownloadFailed(f"only http and https are fetched, not {shortened(url)}")
    if not address.host:
        raise DownloadFailed(f"not an address: {shortened(url)} names no host")
    if address.port is not None and not 0 < address.port < 2**16:
        raise DownloadFailed(f"not an address: there is no port {address.port}")
    return address


def _status(code: int) -> str:
    try:
        return f"HTTP {code} {HTTPStatus(code).phrase}"
    except ValueError:
        return f"HTTP {code}"


def _seconds(text: str) -> float:
    """Retry-After: seconds, or a date."""
    if text.strip().isdecimal():
        return float(text.strip()[:9])
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _decoded(data: bytes, encoding: str, limit: int) -> bytes:
    """Some sites compress though they are asked not to; what comes out has the same limit."""
    if encoding in ("", "identity"):
        return data
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise DownloadFailed(f"the site sends {encoding[:40]}, which it was not asked for")
    unpack = zlib.decompressobj(wbits=47)
    try:
        plain = unpack.decompress(data, limit + 1)
    except zlib.error as error:
        raise DownloadFailed(f"the compressed answer is broken: {error}") from error
    if len(plain) > limit:
        raise TooLarge(f"the download is over the limit of {limit:,} bytes")
    if not unpack.eof:
        raise DownloadFailed("the compressed answer is cut short")
    return plain
