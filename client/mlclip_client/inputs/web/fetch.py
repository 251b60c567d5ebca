"""Downloads over http and https, from addresses that nobody has checked."""

from __future__ import annotations

import base64
import os
import random
import re
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import responses
from importlib.util import find_spec

import httpcore2
import httpx2

from mlclip_client.errors import DownloadFailed, TooLarge
from mlclip_client.images import check_size
from mlclip_client.inputs.web.addresses import CheckedNetwork, Deadline, Resolve, is_closed_literal, not_public, resolve
from mlclip_client.inputs.web.politeness import Slots, refusal
from mlclip_client.options import Limits
from mlclip_client.wording import reason_of, shortened

_TRIES = 3
_FIRST_PAUSE = 0.5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({408, 429, 500, 502, 503, 504, *range(520, 525)})
"""Another try often succeeds; 520 to 524 are Cloudflare's words for an origin that fails."""
_MOST_PARTS = 16  # members of a gzip, and encodings of an answer: each may cost as much as a whole file
_NOT_UNPACKED = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})


class _Again(Exception):
    """Another try may succeed; `after` is how many seconds the site asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class Web:
    """Fetches files; may be used from several threads.

    The executor runs `lookup`, which resolves host names.
    """

    def __init__(self, limits: Limits, executor: Executor, lookup: Resolve = resolve) -> None:
        self._limits = limits
        self._deadline = Deadline()
        self._slots = Slots(limits.connections, limits.per_host)
        self._closing = threading.Event()
        self._headers = [("User-Agent", limits.user_agent), ("Accept", "*/*"), ("Accept-Encoding", "identity")]
        any_address = limits.private or limits.proxy is not None
        tls, self._no_tls = _tls()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=tls,
            proxy=None if limits.proxy is None else _proxy(limits.proxy),
            max_connections=limits.connections,
            keepalive_expiry=5.0,
            network_backend=CheckedNetwork(self._deadline, executor, any_address, lookup),
        )

    def fetch(self, url: str) -> bytes:
        """Download a file; raises DownloadFailed, whose message says why, or TooLarge.

        Time counts from when a slot is free, and includes redirects and retries. If a site is busy or a connection
        breaks, there are up to three tries, the next one not before the time that the site asks for.
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
        """Close all connections, and end all waits for another try."""
        self._closing.set()
        self._pool.close()

    def _follow(self, url: httpx2.URL) -> bytes:
        for _ in range(self._limits.redirects + 1):
            if self._limits.proxy is not None and not self._limits.private and is_closed_literal(url.host):
                raise DownloadFailed(not_public(url.host, url.host))
            started = bool(self._deadline.until)
            with self._timed(), self._slots.one(url.host, self._deadline.left() if started else None) as got:
                if not got:
                    raise httpcore2.PoolTimeout("no slot for the download in time")
                if not started:
                    self._deadline.until = time.monotonic() + self._limits.download_seconds
                answer = self._get(url)
            if isinstance(answer, bytes):
                return answer
            if not answer.userinfo and _origin(answer) == _origin(url):
                answer = answer.copy_with(userinfo=url.userinfo)
            url = answer
        raise DownloadFailed(f"more than {self._limits.redirects} redirects")

    def _get(self, url: httpx2.URL) -> bytes | httpx2.URL:
        """One request: the file, or the address that it redirects to."""
        if self._no_tls and url.scheme == "https":
            raise DownloadFailed(self._no_tls)
        target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        wait = {"timeout": {"pool": self._deadline.left()}}
        own = [("Host", url.netloc.decode("ascii")), *_credentials(url)]
        with self._pool.stream("GET", target, headers=[*own, *self._headers], extensions=wait) as response:
            headers = httpx2.Headers(response.headers)
            directive = refusal(headers.get_list("x-robots-tag"), self._limits.user_agent)
            if directive and not self._limits.ignore_robots:
                raise DownloadFailed(f"the site asks not to be indexed (X-Robots-Tag: {directive})")
            if response.status in _REDIRECTS and "location" in headers:
                return _parse(headers["location"], base=url)
            status = f"HTTP {response.status} {responses.get(response.status, '')}".rstrip()
            if response.status in _BUSY:
                raise _Again(status, _seconds(headers.get("retry-after", "")))
            if response.status != 200:
                raise DownloadFailed(status)
            return self._body(response, headers)

    def _body(self, response: httpcore2.Response, headers: httpx2.Headers) -> bytes:
        limit, data = self._limits.max_bytes, bytearray()
        announced = headers.get("content-length", "")
        if announced.isdecimal():
            check_size(int(announced[:20]), limit)
        for chunk in response.iter_stream():
            data += chunk
            if len(data) > limit:
                raise TooLarge(f"the download is over the limit of {limit:,} bytes")
        plain, encodings = bytes(data), headers.get("content-encoding", "").lower().split(",")
        if len(encodings) > _MOST_PARTS:
            raise DownloadFailed("the answer is compressed too many times")
        for encoding in reversed(encodings):
            plain = _decoded(plain, encoding.strip(), limit)
        return plain

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Turn what httpcore raises into an error that is final, or into one that asks for another try."""
        try:
            yield
        except httpcore2.TimeoutException as error:
            raise DownloadFailed(f"not whole within {self._limits.download_seconds:g} s") from error
        except (httpcore2.NetworkError, httpcore2.RemoteProtocolError, httpcore2.ProxyError) as error:
            raise _Again(f"the connection failed: {_quoted(error)}") from error
        except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol) as error:
            raise DownloadFailed(_quoted(error)) from error


def _tls() -> tuple[ssl.SSLContext | None, str]:
    """What checks certificates, or why nothing does: then only https fails."""
    try:
        return httpx2.create_ssl_context(), ""
    except OSError as error:
        name = next(filter(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR")), "the system's")
        return None, f"no certificates to check https with: {name}={os.environ.get(name)}: {reason_of(error)}"


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _credentials(url: httpx2.URL) -> list[tuple[str, str]]:
    """The header for `user:password@` in an address (RFC 7617)."""
    if not url.userinfo:
        return []
    pair = base64.b64encode(f"{url.username}:{url.password}".encode()).decode("ascii")
    return [("Authorization", f"Basic {pair}")]


def _quoted(error: Exception) -> str:
    """The reason of an error; bytes that it quotes are shown as text."""
    return re.sub(r"bytearray\(b(['\"])(.*?)\1\)", r"\2", reason_of(error))


def _proxy(address: str) -> httpcore2.Proxy:
    try:
        proxy = httpx2.Proxy(address)
    except (ValueError, httpx2.InvalidURL) as error:
        raise ValueError(f"proxy {address}: {reason_of(error)}") from error
    if proxy.url.scheme.startswith("socks") and find_spec("socksio") is None:
        raise ValueError(f"proxy {address} needs a package: pip install 'mlclip-client[socks]'")
    return httpcore2.Proxy(str(proxy.url), auth=proxy.raw_auth)


def _parse(url: str, base: httpx2.URL | None = None) -> httpx2.URL:
    try:
        address = httpx2.URL(url) if base is None else base.join(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise DownloadFailed(f"not an address: {reason_of(error)}") from error
    if address.scheme not in ("http", "https"):
        raise DownloadFailed(f"only http and https are fetched, not {shortened(url)}")
    if not address.host:
        raise DownloadFailed(f"not an address: {shortened(url)} names no host")
    if address.port is not None and not 0 < address.port < 2**16:
        raise DownloadFailed(f"not an address: there is no port {address.port}")
    return address


def _seconds(text: str) -> float:
    """The seconds to wait by `Retry-After`, which is a number or a date; 0 if it makes no sense."""
    if text.strip().isdecimal():
        return float(text.strip()[:9])
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _decoded(data: bytes, encoding: str, limit: int) -> bytes:
    """Unpack what a site compressed though it was asked not to; the result has the same limit.

    What is no compression (`none`, `utf-8`, `aws-chunked`, `image/png`) says nothing about the bytes, as for browsers.
    """
    if encoding in _NOT_UNPACKED:
        raise DownloadFailed(f"the site sends {encoding}, which it was not asked for")
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return data
    has_header = data.startswith(b"\x1f\x8b") or data[:1] and data[0] % 16 == 8 and int.from_bytes(data[:2]) % 31 == 0
    plain, wbits = b"", zlib.MAX_WBITS + 32 if has_header or encoding != "deflate" else -zlib.MAX_WBITS
    try:
        for _ in range(_MOST_PARTS):
            unpack = zlib.decompressobj(wbits)
            plain += unpack.decompress(data, limit + 1 - len(plain))
            if len(plain) > limit:
                raise TooLarge(f"the download is over the limit of {limit:,} bytes")
            if not unpack.eof:
                raise DownloadFailed("the compressed answer is cut short")
            data = unpack.unused_data
            if encoding == "deflate" or not data.startswith(b"\x1f\x8b"):  # another member
                return plain
    except zlib.error as error:
        raise DownloadFailed(f"the compressed answer is broken: {error}") from error
    raise DownloadFailed("the compressed answer has too many members")
