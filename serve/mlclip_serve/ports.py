"""Ports: check the chosen ones, and pick free ones for the others."""

import contextlib
import errno
import socket
from collections.abc import Mapping

from mlclip_serve.errors import PortError


def choose(address: str, asked: Mapping[str, int]) -> dict[str, int]:
    """Choose a port for each service: all different and free at this moment; 0 asks for any free port.

    Another program can still take a port before the server does; the caller must be ready to choose again.

    Raises PortError if a port is taken, given twice, or not allowed.
    """
    ports: dict[str, int] = {}
    with contextlib.ExitStack() as held:
        for service, port in sorted(asked.items(), key=lambda item: item[1] == 0):
            if port and port in ports.values():
                raise PortError(f"port {port} was given twice: choose another --{service}-port")
            probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
                probe.listen()
            except (OSError, OverflowError) as error:
                if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                    raise taken(address, service, port) from None
                raise PortError(f"cannot listen on {address} port {port} for {service}: {error}") from None
            ports[service] = probe.getsockname()[1]
    return ports


def taken(address: str, service: str, port: int) -> PortError:
    """Give the error for a port that is in use."""
    return PortError(f"port {port} on {address} is in use: choose another --{service}-port, or 0 for any that is free")
