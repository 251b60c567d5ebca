"""Keep a server running: notice that it has failed, and start it again.

Triton does not notice that the process of a Python model has died or hangs, see `probe`. A server is started again when

* it has ended by itself, except with exit code 0,
* a process of a model has ended or was stopped, which is noticed within two seconds,
* an ensemble has failed on three probes in a row, or
* a probe was not answered, and a model with requests in its queue has finished none for half a minute. A busy server
  is no failure, and neither is one of several processes of a model that hangs.
"""

import contextlib
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from mlclip_serve import probe
from mlclip_serve.command import GRACE
from mlclip_serve.errors import ModelError, ServeError, StartError
from mlclip_serve.server import Server

_LOOK = 1.0  # seconds between two looks at the processes
_PROBE, _REST = 4.0, 20  # at least these seconds between two probes, and so many times what an answered one took
_ANSWER = 4.0  # seconds for the answer to a probe
_SILENCE = 30.0
_MAX_FAILURES = 3
_LONGEST_PAUSE = 60.0
_STEADY = 60.0  # after so many seconds, restarts are counted anew


def supervise(
    server: Server,
    max_restarts: int,
    *,
    on_ready: Callable[[bool], None],
    say: Callable[[str], None],
    stopping: Callable[[], bool],
) -> int:
    """Start a server, and keep it running until it ends as asked; give its exit code.

    `max_restarts` is how many starts in a row may fail before this gives up; the pauses before them double. `on_ready`
    is called whenever the server has become ready or is no longer, `say` with a line about each failure; `stopping`
    tells whether the server was asked to end. Raises ServeError if a start has failed, the first one or the last one
    that was allowed.
    """
    restarts = 0
    while True:
        started = time.monotonic()
        try:
            server.start()
        except ServeError as error:
            if stopping() or not 0 < restarts < max_restarts:
                raise
            fault = str(error)
        else:
            on_ready(True)
            found = await_fault(server)
            on_ready(False)
            if found is None or stopping():
                server.ends_within(GRACE)
                return server.kill()
            fault, code = found, server.kill()
            if time.monotonic() - started > _STEADY:
                restarts = 0
            if restarts >= max_restarts:
                say(f"{fault} (Triton's log: {server.log})")
                return code
        pause = min(2.0**restarts, _LONGEST_PAUSE)
        say(f"{fault} (Triton's log: {server.log}); the server starts again in {pause:g} s")
        time.sleep(pause)
        restarts += 1


def await_fault(server: Server) -> str | None:
    """Wait until a running server fails, and give the reason; None once it has ended with exit code 0."""
    watch = _Watch(server)
    while not server.ends_within(_LOOK):
        if fault := watch.fault():
            return fault
    code = server.wait()
    return f"the server ended with exit code {code}" if code else None


class _Watch:
    """Looks at the processes of a server's models, and asks its ensembles in turn."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._processes = set(_states(server.pid))
        self._turn = self._failures = 0
        self._next_probe = 0.0
        self._waiting: dict[str, tuple[int, float]] = {}  # model -> what it had finished, and since when

    def fault(self) -> str | None:
        """Look once; give what is wrong."""
        states = _states(self._server.pid)
        if states.get(self._server.pid, "Z") in "ZX":
            return None  # it ends
        if any(states.get(process, "Z") in "ZX" for process in self._processes):
            return "a process of a model has died"
        if any(state in "Tt" for state in states.values()):
            return "a process of the server was stopped"
        return self._probe() if time.monotonic() >= self._next_probe else None

    def _probe(self) -> str | None:
        begin, url = time.monotonic(), self._server.grpc_url
        name = self._server.ensembles[self._turn % len(self._server.ensembles)]
        fault, rest = None, _PROBE
        try:
            probe.infer(url, name, begin + _ANSWER)
            self._turn, self._failures = self._turn + 1, 0
            rest = max(_PROBE, _REST * (time.monotonic() - begin))
        except ModelError as error:
            self._failures += 1
            fault = str(error) if self._failures == _MAX_FAILURES else None
        except StartError:  # it is asked again
            fault = self._stuck()
        self._next_probe = time.monotonic() + rest
        return fault

    def _stuck(self) -> str | None:
        """Find a model with requests that has finished none for too long."""
        now = time.monotonic()
        try:
            waiting = probe.waiting(self._server.metrics_url)
        except (OSError, HTTPException):
            waiting = {"the server": 0}
        known, self._waiting = self._waiting, {}
        for model, finished in waiting.items():
            since = known[model][1] if model in known and known[model][0] == finished else now
            self._waiting[model] = finished, since
            if now - since > _SILENCE:
                return f"{model} has answered nothing for {now - since:.0f} s"
        return None


def _states(group: int) -> dict[int, str]:
    """Give the states of the processes in a process group as Linux writes them, such as `T` for a stopped one."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, its_group = (entry / "stat").read_text().rpartition(") ")[2].split()[:3]
            if int(its_group) == group:
                found[int(entry.name)] = state
    return found
