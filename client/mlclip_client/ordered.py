"""Work on a stream of items, several at once, with results in input order, each as soon as it is there.

A thread of its own reads the items, so that a result comes out even while the next item is still waited for, as when
items come through a pipe.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


def ordered(work: Callable[[I], R], items: Iterable[I], threads: int, window: int | None = None) -> Iterator[R]:
    """Work on items, read lazily by one thread, in threads; what the work raises ends everything in the item's place.

    `window` items, at least 2, may be read and not yet handed out; None: eight times `threads`, so that one slow item
    does not stall the others.
    """
    results: queue.Queue[Future[R] | None] = queue.Queue()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="mlclip-client")

    def start(item: I) -> None:
        results.put(pool.submit(work, item))

    try:
        with _reading(items, window or 8 * threads, start, lambda: results.put(None)) as room:
            while (result := results.get()) is not None:
                yield result.result()
                room.release()
    finally:
        pool.shutdown(cancel_futures=True)


async def ordered_async(
    work: Callable[[I], Coroutine[Any, Any, R]], items: Iterable[I], tasks: int, window: int
) -> AsyncGenerator[R, None]:
    """Work on items in tasks of the running event loop; see `ordered`."""
    loop, slots = asyncio.get_running_loop(), asyncio.Semaphore(tasks)
    results: asyncio.Queue[asyncio.Task[R] | None] = asyncio.Queue()
    started: set[asyncio.Task[R]] = set()

    async def in_slot(item: I) -> R:
        async with slots:
            return await work(item)

    def start(item: I) -> None:
        task = loop.create_task(in_slot(item))
        started.add(task)
        task.add_done_callback(started.discard)
        results.put_nowait(task)

    try:
        with _reading(
            items,
            window,
            lambda item: loop.call_soon_threadsafe(start, item),
            lambda: loop.call_soon_threadsafe(results.put_nowait, None),
        ) as room:
            while (result := await results.get()) is not None:
                yield await result
                room.release()
    finally:
        await asyncio.sleep(0)  # items read last are started as well
        for task in started:
            task.cancel()
        await asyncio.gather(*started, return_exceptions=True)


@contextlib.contextmanager
def _reading(
    items: Iterable[I], window: int, start: Callable[[I], object], end: Callable[[], object]
) -> Iterator[threading.Semaphore]:
    """Read items in a thread, which calls `start` with each and `end` when there are no more.

    Gives what to release for each result that is handed out. What the items raise is raised where the block ends.
    """
    room, stopped = threading.Semaphore(window - 1), threading.Event()  # one item is read before it waits for room
    errors: list[BaseException] = []

    def read() -> None:
        try:
            for item in items:
                room.acquire()
                if stopped.is_set():
                    return
                start(item)
        except BaseException as error:
            errors.append(error)
        if not stopped.is_set():
            end()

    thread = threading.Thread(target=read, name="mlclip-client-inputs", daemon=True)
    thread.start()
    try:
        yield room
        for error in errors:
            raise error
    finally:
        stopped.set()
        room.release()
        thread.join(1)  # the caller may close what it reads; waiting longer would mean waiting for a pipe
