"""Several endpoints as one: round robin, with retries while a server is away or busy."""

import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from mlclip_client.errors import ClientError, NoAnswer, ServerUnavailable
from mlclip_client.events import tell
from mlclip_client.server.transport import Transport

T = TypeVar("T")
R = TypeVar("R", bound=Transport)
_FIRST, _GROWTH, _LONGEST = 0.1, 2.0, 5.0


@dataclass
class Endpoint(Generic[R]):
    """One server."""

    url: str
    transport: R
    failures: int = 0  # how many times in a row it did not answer
    rests_until: float = 0.0  # when it is asked again, in seconds of the clock; in the past while it answers
    reason: str = ""  # why it did not answer the last time


class EndpointPool(Generic[R]):
    """One or more endpoints, each of which may be asked; `retries` counts the questions that were asked again.

    Questions go round robin. An endpoint that does not answer rests, for a tenth of a second at first and for up to 5 s
    later, until its first answer; questions that met it go to the others at once. When no endpoint answers, the server
    is busy or the deadline passed, a question is asked again, after a pause with jitter, until `retry_seconds` are
    over. Before the first answer nothing is asked again, so a wrong address is reported at once. After a question has
    been given up, others fail at once while all endpoints rest.
    """

    def __init__(
        self, endpoints: dict[str, R], retry_seconds: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not endpoints:
            raise ValueError("name at least one endpoint, host:port")
        self.endpoints = [Endpoint(url, transport) for url, transport in endpoints.items()]
        self.retries = 0
        self._answered: float | None = None
        self._given_up = False
        self._retry_seconds, self._clock = retry_seconds, clock
        self._lock, self._turn, self._jitter = threading.Lock(), 0, random.Random()

    async def ask(self, question: Callable[[Endpoint[R]], Awaitable[T]]) -> T:
        """Ask an endpoint that answers; raises what the last try raised. A question starts over at each try."""
        started = self._clock()
        retry_seconds = self._retry_seconds if self._answered is not None and not self._given_up else 0.0
        until, tried, tries = started + retry_seconds, set[str](), 0
        while True:
            endpoint = await self._choose(until, tried)
            try:
                answer = await question(endpoint)
            except NoAnswer as error:
                tried.add(endpoint.url)
                tries += 1
                self._note(endpoint, error)
                elsewhere = isinstance(error, ServerUnavailable) and tries < len(self.endpoints)
                if not elsewhere:
                    pause = self._pause(tries)
                    if self._given_up or self._clock() + pause > until:
                        self._give_up(started)
                        raise
                    if not isinstance(error, ServerUnavailable):  # otherwise, _choose waits
                        await endpoint.transport.pause(pause)
                with self._lock:
                    self.retries += 1
            else:
                self._welcome(endpoint)
                return answer

    async def ask_each(self, question: Callable[[Endpoint[R]], Awaitable[T]]) -> list[T]:
        """Ask every endpoint once; give the answers of those that answer. If none does, raises what the last raised."""
        answers: list[T] = []
        away: list[tuple[Endpoint[R], ClientError]] = []
        for endpoint in self.endpoints:
            try:
                answers.append(await question(endpoint))
            except NoAnswer as error:
                away.append((endpoint, error))
            else:
                self._welcome(endpoint)
        if not answers:
            raise away[-1][1]
        for endpoint, reason in away:
            self._note(endpoint, reason)
        return answers

    async def work(self, function: Callable[[], T]) -> T:
        """Run a function that reads files or computes."""
        return await self.endpoints[0].transport.work(function)

    async def _choose(self, until: float, tried: set[str]) -> Endpoint[R]:
        """The next endpoint that does not rest; if all rest, the first to be back. After `until`, an untried one."""
        with self._lock:
            now, count = self._clock(), len(self.endpoints)
            order = [self.endpoints[(self._turn + step) % count] for step in range(count)]
            again = tried if until <= now else set()
            chosen = min(order, key=lambda endpoint: (endpoint.url in again, max(endpoint.rests_until - now, 0.0)))
            self._turn = (self.endpoints.index(chosen) + 1) % count
            if self._given_up and chosen.rests_until > now:
                raise ServerUnavailable(chosen.reason)
        rest = min(chosen.rests_until, until) - now
        if rest > 0:
            await chosen.transport.pause(rest)
        return chosen

    def _welcome(self, endpoint: Endpoint[R]) -> None:
        self._answered, self._given_up = self._clock(), False
        with self._lock:
            was_away, endpoint.failures, endpoint.rests_until = endpoint.failures > 0, 0, 0.0
        if was_away:
            tell("endpoint back", notice=self._notice(f"{endpoint.url} answers again"), url=endpoint.url)

    def _note(self, endpoint: Endpoint[R], error: ClientError) -> None:
        """Let an endpoint rest that does not answer; requests that were under way together count once."""
        if isinstance(error, ServerUnavailable):
            with self._lock:
                now, endpoint.reason = self._clock(), str(error)
                if endpoint.rests_until <= now:
                    endpoint.failures += 1
                    if endpoint.failures == 1:
                        notice = self._notice(f"{error}; it is asked again from time to time")
                        tell("endpoint away", logging.WARNING, notice=notice, url=endpoint.url, error=str(error))
                    endpoint.rests_until = now + self._pause(endpoint.failures)

    def _give_up(self, started: float) -> None:
        """Stop retries of the next questions, unless another one was answered since this one was first asked."""
        if self._retry_seconds and self._answered is not None and self._answered < started:
            self._given_up = True

    def _notice(self, text: str) -> str:
        """The line on standard error; empty if the question fails at once, which reports the same."""
        return text if self._retry_seconds or len(self.endpoints) > 1 else ""

    def _pause(self, tries: int) -> float:
        """Give the seconds to wait after a number of tries: longer each time, with jitter."""
        longest = min(_LONGEST, _FIRST * _GROWTH ** min(tries - 1, 16))
        return longest * self._jitter.uniform(0.5, 1.0)
