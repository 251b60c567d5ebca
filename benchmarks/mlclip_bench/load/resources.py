"""CPU and memory of the server's processes, of this one, and of the machine."""

import contextlib
import http.client
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

_GAUGE = re.compile(r"^(nv_cpu_utilization|nv_cpu_memory_used_bytes)(?:\{[^}]*\})? (\S+)", re.MULTILINE)
_TIMEOUT = 5.0


@dataclass(frozen=True)
class Usage:
    """A reading."""

    time: float  # seconds, monotonic
    server_cpu: float | None  # CPU seconds of the server's processes; None where they are not on this machine
    server_rss: int | None  # their resident bytes; shared memory counts once per process
    client_cpu: float  # CPU seconds of this process
    client_rss: int  # its resident bytes
    machine_cpu: float  # CPU seconds of all programs on this machine
    host_cpu: float | None = None  # how busy the server's machine is, from Triton's metrics; None without metrics
    host_memory: float | None = None  # bytes in use there


def read_usage(pid: int | None, metrics: str | None) -> Usage:
    """Read everything that can be read.

    The server's process, `pid`, counts with its children; it is None for a server that we have not started. `metrics`
    is host:port of Triton's metrics.
    """
    server = None if pid is None else _tree(pid)
    gauges = {} if metrics is None else _gauges(metrics)
    here, busy = psutil.Process(), psutil.cpu_times()
    times = here.cpu_times()
    return Usage(
        time=time.monotonic(),
        server_cpu=None if server is None else server[0],
        server_rss=None if server is None else server[1],
        client_cpu=times.user + times.system,
        client_rss=here.memory_info().rss,
        machine_cpu=sum(busy) - busy.idle - getattr(busy, "iowait", 0.0) - getattr(busy, "guest", 0.0),
        host_cpu=gauges.get("nv_cpu_utilization"),
        host_memory=gauges.get("nv_cpu_memory_used_bytes"),
    )


def cores_and_memory(readings: Sequence[Usage]) -> dict[str, float | None]:
    """What was used between the first and the last reading, as plain JSON values.

    Returns:
        `server_cores`, `client_cores`, `other_cores` (of other programs on this machine): CPU seconds per second.
        `server_rss`, `client_rss`: the largest reading in bytes. `host_cpu`, `host_memory`: means.
    """
    first, last = readings[0], readings[-1]
    seconds = max(last.time - first.time, 1e-9)
    client = (last.client_cpu - first.client_cpu) / seconds
    machine = (last.machine_cpu - first.machine_cpu) / seconds
    server = None
    if first.server_cpu is not None and last.server_cpu is not None:
        server = max(0.0, last.server_cpu - first.server_cpu) / seconds
    return {
        "server_cores": server,
        "server_rss": _largest([reading.server_rss for reading in readings]),
        "client_cores": client,
        "client_rss": _largest([reading.client_rss for reading in readings]),
        "other_cores": None if server is None else max(0.0, machine - client - server),
        "host_cpu": _mean([reading.host_cpu for reading in readings]),
        "host_memory": _mean([reading.host_memory for reading in readings]),
    }


def _tree(pid: int) -> tuple[float, int] | None:
    """CPU seconds and resident bytes of a process and its descendants."""
    cpu, rss = 0.0, 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return None
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
            times = process.cpu_times()
            cpu += times.user + times.system
            rss += process.memory_info().rss
    return cpu, rss


def _gauges(metrics: str) -> dict[str, float]:
    host, _, port = metrics.removeprefix("http://").partition("/")[0].partition(":")
    connection = http.client.HTTPConnection(host, int(port or 8002), timeout=_TIMEOUT)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return {}
    return {name: float(value) for name, value in _GAUGE.findall(text)}


def _largest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
