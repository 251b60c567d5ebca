"""Work on a stream of items in threads, with results in input order, as soon as they can be given."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
_AHEAD = 8


def ordered(work: Callable[[I], R], items: Iterable[I], threads: int, window: int | None = None) -> Iterator[R]:
    """Work on items as they come, several at once.

    A thread of its own reads the items, so that a result comes out though the next item is still waited for, as when
    they come through a pipe.

    Args:
        work: of one item; what it raises is raised in its place in the order, and ends everything.
        items: read lazily, by one thread.
        threads: how many items are worked on at once.
        window: how many may be read and not yet handed out; None: eight times `threads`, so that a slow one stalls no
            other.
    """
    started: queue.Queue[Future[R] | None] = queue.Queue()
    room, stopped = threading.Semaphore(window or _AHEAD * threads), threading.Event()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="mlclip-client")

    def feed() -> None:
        try:
            for item in items:
                room.acquire()
                if stopped.is_set():
                    return
                started.put(pool.submit(work, item))
        except BaseException as error:  # whoever reads the results hears of it
            broken: Future[R] = Future()
            broken.set_exception(error)
            started.put(broken)
        finally:
            started.put(None)

    feeder = threading.Thread(target=feed, name="mlclip-client-inputs", daemon=True)
    feeder.start()
    try:
        while (future := started.get()) is not None:
            yield future.result()
            room.release()
    finally:
        stopped.set()
        room.release()
        pool.shutdown(cancel_futures=True)
        feeder.join(1)  # what it reads may be closed next; longer it would wait for a pipe
