"""Send load: clients that wait for their answers (closed loop), or images that arrive at random (open loop).

In the open loop, a request's latency counts from the moment at which it should have been sent. A generator or server
that falls behind therefore shows as latency; requests that were not sent in time cannot hide it.

Arrivals are a Poisson process, conditional on the number of images per window: that many moments, uniform over the
window. Windows then differ by what the server does, not by how many images happened to arrive.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from mlclip_bench.load.define import Closed, Load, Open, Pace
from mlclip_bench.load.windows import Histogram, Window, is_settled

Ask = Callable[[bytes], Awaitable[str | None]]
"""Asks for the labels of one image; gives None for an answer, or the kind of the error."""
Request = Callable[[float], Coroutine[Any, Any, None]]
T = TypeVar("T")
_TICK = 0.05
_LONGEST = 10  # a window that waits for answers ends after this many times its length at the latest


@dataclass(frozen=True)
class Measured(Generic[T]):
    """Windows in order, what `observe` gave before the first and after each, and requests under way at the end."""

    windows: tuple[Window, ...]
    observed: tuple[T, ...]
    unanswered: int


async def generate(
    load: Load,
    ask: Ask,
    images: Sequence[bytes],
    pace: Pace,
    seed: int,
    observe: Callable[[], Awaitable[T]],
    *,
    target: float | None = None,
    on_window: Callable[[Window], None] | None = None,
) -> Measured[T]:
    """Put load on a server until more windows would change nothing (see `is_settled`), or there are `pace.windows`.

    Images are sent round after round, each in its own order. `observe` is called at the edge of every window. Requests
    under way at the end are awaited but not counted.
    """
    level = (0, load.concurrency) if isinstance(load, Closed) else (1, round(load.rate * 1000))
    tally, random = _Tally(), np.random.default_rng([seed, *level])
    feed = _shuffled(images, random)
    windows: list[Window] = []

    async def request(intended: float) -> None:
        tally.send(intended)
        tally.receive(intended, await ask(next(feed)))

    async with asyncio.TaskGroup() as group:
        if isinstance(load, Closed):
            for _ in range(load.concurrency):
                group.create_task(_repeat(request, tally))
            endless = group.create_task(_tick(tally))
        else:
            endless = group.create_task(_arrive(load, pace, random, request, group))
        await asyncio.sleep(pace.warmup)
        tally.cut()
        observed = [await observe()]
        rate = load.rate if isinstance(load, Open) else None
        while len(windows) < pace.windows and not is_settled(windows, rate, target):
            await tally.window(load, pace)
            windows.append(tally.cut())
            observed.append(await observe())
            if on_window is not None:
                on_window(windows[-1])
        unanswered, tally.ended = tally.under_way, True
        endless.cancel()
    return Measured(tuple(windows), tuple(observed), unanswered)


def poisson_moments(rate: float, seconds: float, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Sorted moments [R] of a Poisson process on [0, seconds), given that as many arrive as expected (at least one)."""
    return np.sort(random.uniform(0, seconds, max(1, round(rate * seconds))))


class _Tally:
    """Counts what comes back, window by window."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._enough = asyncio.Event()
        self._wanted = 0
        self.under_way = 0
        self.ended = False
        self._begin()

    def _begin(self) -> None:
        self._since = self._loop.time()
        self._histogram, self._errors = Histogram(), Counter[str]()
        self._latency = self._lag = 0.0
        self._wakes = self._came = 0

    def send(self, intended: float) -> None:
        self.under_way += 1
        self.wake(intended)

    def wake(self, intended: float) -> None:
        self._lag += self._loop.time() - intended
        self._wakes += 1

    def receive(self, intended: float, error: str | None) -> None:
        self.under_way -= 1
        if error is None:
            latency = self._loop.time() - intended
            self._latency += latency
            self._histogram.add(latency)
        else:
            self._errors[error] += 1
        self._came += 1
        if self._came >= self._wanted:
            self._enough.set()

    async def window(self, load: Load, pace: Pace) -> None:
        """Wait until the present window is over."""
        seconds = pace.window if isinstance(load, Closed) else pace.seconds(load)
        self._wanted = pace.requests if isinstance(load, Closed) else 0
        await asyncio.sleep(max(0.0, self._since + seconds - self._loop.time()))
        if self._came < self._wanted:
            self._enough.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), seconds * (_LONGEST - 1))

    def cut(self) -> Window:
        """End the window here and begin the next."""
        seconds = max(self._loop.time() - self._since, 1e-9)
        window = Window(seconds, self._latency, self._histogram, dict(self._errors), self._lag, self._wakes)
        self._begin()
        return window


async def _repeat(request: Request, tally: _Tally) -> None:
    loop = asyncio.get_running_loop()
    while not tally.ended:
        await request(loop.time())


async def _arrive(
    load: Open, pace: Pace, random: np.random.Generator, request: Request, group: asyncio.TaskGroup
) -> None:
    loop = asyncio.get_running_loop()
    start, seconds = loop.time(), pace.warmup
    while True:
        for moment in poisson_moments(load.rate, seconds, random) if seconds else ():
            intended = start + float(moment)
            await asyncio.sleep(max(0.0, intended - loop.time()))
            group.create_task(request(intended))
        start, seconds = start + seconds, pace.seconds(load)


async def _tick(tally: _Tally) -> None:
    """Measure how late the event loop wakes up: answers wait that long before they are seen."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _TICK
        await asyncio.sleep(_TICK)
        tally.wake(due)


def _shuffled(images: Sequence[bytes], random: np.random.Generator) -> Iterator[bytes]:
    while True:
        for number in random.permutation(len(images)):
            yield images[number]
