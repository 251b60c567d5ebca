"""Several endpoints as one transport: round robin, patient with a server that is away or busy."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mlclip_client.errors import ClientError, DeadlineExceeded, ServerBusy, ServerUnavailable
from mlclip_client.events import tell
from mlclip_client.transport import Transport

T = TypeVar("T")
R = TypeVar("R", bound=Transport)
AGAIN = (ServerUnavailable, ServerBusy, DeadlineExceeded)
"""Errors after which the same request may be sent again. Others say something of the image or of the models."""
_FIRST, _GROWTH, _LONGEST = 0.1, 2.0, 5.0


@dataclass
class Endpoint(Generic[R]):
    """One server.

    Attributes:
        url: host:port.
        transport: how it is reached.
        failures: how often in a row nobody answered there.
        rests_until: when it is asked again, in seconds of the clock; in the past while it answers.
    """

    url: str
    transport: R
    failures: int = 0
    rests_until: float = 0.0


class Balanced(Generic[R]):
    """A Transport over one or more endpoints that serve the same models.

    Requests go round robin. An endpoint where nobody answers is left out, for a tenth of a second at first and up to
    5 s when that goes on, and comes back with its first answer; requests that met it go to the others at once. When
    nobody answers, the server is busy or the deadline passed, a request is sent again, after a pause with jitter,
    until `patience` is over. There is none before the first answer: a wrong address is said at once.

    Args:
        endpoints: url -> transport; one at least.
        patience: seconds after a request's first try in which it may be sent again; 0: never to the same endpoint.
        clock: gives seconds.

    Attributes:
        retries: how many requests were sent again.
    """

    def __init__(
        self, endpoints: dict[str, R], patience: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.endpoints = [Endpoint(url, transport) for url, transport in endpoints.items()]
        self.retries = 0
        self._answered = False
        self._patience, self._clock = patience, clock
        self._lock, self._turn, self._jitter = threading.Lock(), 0, random.Random()

    async def call(self, rpc: str, request: Any) -> Any:
        """Send a request to an endpoint that answers; raises what the last try raised."""
        patience = self._patience if self._answered else 0.0
        until, untried, tries = self._clock() + patience, len(self.endpoints), 0
        while True:
            endpoint = await self._choose(until)
            try:
                reply = await endpoint.transport.call(rpc, request)
            except AGAIN as error:
                untried, tries = untried - 1, tries + 1
                self._note(endpoint, error)
                elsewhere = isinstance(error, ServerUnavailable) and untried > 0
                if not elsewhere:
                    pause = self._pause(tries)
                    if self._clock() + pause > until:
                        raise
                    if not isinstance(error, ServerUnavailable):  # for that one, _choose waits
                        await endpoint.transport.pause(pause)
                with self._lock:
                    self.retries += 1
            else:
                self._answered = True
                if endpoint.failures:
                    endpoint.failures, endpoint.rests_until = 0, 0.0
                    tell("endpoint back", url=endpoint.url)
                return reply

    async def work(self, function: Callable[[], T]) -> T:
        """Run a function that reads files or computes."""
        return await self.endpoints[0].transport.work(function)

    async def pause(self, seconds: float) -> None:
        """Wait, unless the transport is closed meanwhile."""
        await self.endpoints[0].transport.pause(seconds)

    def transports(self) -> Sequence[R]:
        """All of them, to be closed."""
        return [endpoint.transport for endpoint in self.endpoints]

    async def _choose(self, until: float) -> Endpoint[R]:
        """The next endpoint that does not rest; if all rest, the first to be back, then."""
        with self._lock:
            now, count = self._clock(), len(self.endpoints)
            order = [self.endpoints[(self._turn + step) % count] for step in range(count)]
            chosen = min(order, key=lambda endpoint: max(endpoint.rests_until - now, 0.0))
            self._turn = (self.endpoints.index(chosen) + 1) % count
        rest = min(chosen.rests_until, until) - now
        if rest > 0:
            await chosen.transport.pause(rest)
        return chosen

    def _note(self, endpoint: Endpoint[R], error: ClientError) -> None:
        """Leave an endpoint out where nobody answers; requests that were under way together count once."""
        if isinstance(error, ServerUnavailable):
            with self._lock:
                now = self._clock()
                if endpoint.rests_until <= now:
                    endpoint.failures += 1
                    if endpoint.failures == 1:
                        tell("endpoint away", logging.WARNING, url=endpoint.url, error=str(error))
                    endpoint.rests_until = now + self._pause(endpoint.failures)

    def _pause(self, tries: int) -> float:
        """Seconds before try number `tries` + 1: longer each time, and never the same for two."""
        longest = min(_LONGEST, _FIRST * _GROWTH ** min(tries - 1, 16))
        return longest * self._jitter.uniform(0.5, 1.0)
