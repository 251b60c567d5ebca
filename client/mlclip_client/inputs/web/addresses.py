"""Which machines a download may reach: those of the public internet, and no others unless that is allowed.

Host names are resolved here, each address is checked, and the connection goes to the address that was checked, so a
name cannot change its address in between. All reads and writes share one deadline, that of the whole download.
"""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any

import httpcore2

from mlclip_client.errors import DownloadFailed

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], list[str]]  # (host, port) -> its addresses, as text

_UNICAST6 = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_CLOSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "100.64.0.0/10",  # between providers and their customers (RFC 6598); 100.100.100.200 serves metadata
        "168.63.129.16/32",  # Azure's host, by a public number
        "192.0.0.0/24",  # protocol assignments (RFC 6890)
        "192.88.99.0/24",  # relays from IPv6 (RFC 7526)
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation (RFC 9637)
    )
)


def is_public(text: str) -> bool:
    """Tell whether an address belongs to the public internet.

    Loopback, private, link-local, shared, multicast, reserved and documentation addresses do not, and neither do IPv6
    addresses that stand for such an IPv4 address.
    """
    address = _inner(ipaddress.ip_address(text))
    if address.version == 6 and address not in _UNICAST6:
        return False
    if any(address in network for network in _CLOSED):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def resolve(host: str, port: int) -> list[str]:
    """Ask the system for the addresses of a host, each once; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_closed_literal(host: str) -> bool:
    """Tell whether a host written as a number, in any notation, is not public; False for names but `localhost`."""
    try:
        return not is_public(socket.inet_ntoa(socket.inet_aton(host)))
    except OSError:
        pass
    try:
        return not is_public(host)
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def not_public(host: str, address: str) -> str:
    """Say that an address may not be reached, and which option allows it; a host that is a number is its address."""
    name = host if host == address else f"{host} is {address}, which"
    return f"{name} is not an address of the public internet; --private allows it"


class Deadline(threading.local):
    """When this thread's download must have ended."""

    until = 0.0

    def left(self) -> float:
        """Give the seconds that remain; raises httpcore2.TimeoutException if there are none."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("the time is up")
        return left


class CheckedNetwork(httpcore2.NetworkBackend):
    """Connects to public addresses only unless `private` is set, and to the address that was checked.

    The executor runs `lookup`, which has no deadline of its own.
    """

    def __init__(self, deadline: Deadline, executor: Executor, private: bool, lookup: Resolve = resolve) -> None:
        self._deadline, self._executor, self._private, self._lookup = deadline, executor, private, lookup
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Resolve, check and connect; addresses are tried in turn."""
        addresses = self._addresses(host, port)
        for address in addresses:
            try:
                left = self._deadline.left() / (2 if address != addresses[-1] else 1)
                stream = self._sockets.connect_tcp(address, port, left, local_address, socket_options)
                return _Timed(stream, self._deadline)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if address == addresses[-1]:
                    raise
        raise httpcore2.ConnectError(f"{host} has no address")

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = self._executor.submit(self._lookup, host, port).result(self._deadline.left())
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(f"{host} could not be resolved in time") from error
        except (OSError, UnicodeError) as error:
            reason = f"{host} could not be resolved: {getattr(error, 'strerror', None) or error}"
            if getattr(error, "errno", None) == socket.EAI_AGAIN:
                raise httpcore2.ConnectError(reason) from error
            raise DownloadFailed(reason) from error
        allowed = [address for address in found if self._private or is_public(address)]
        if found and not allowed:
            raise DownloadFailed(not_public(host, found[0]))
        return allowed


class _Timed(httpcore2.NetworkStream):
    """A connection on which every wait ends with the thread's deadline."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> "_Timed":
        try:
            stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left())
        except httpcore2.ConnectError as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                raise DownloadFailed(f"the site's certificate: {error.__cause__.verify_message}") from error
            raise
        return _Timed(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
