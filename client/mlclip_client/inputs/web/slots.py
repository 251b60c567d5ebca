"""How many downloads may run at once, in all and from one host."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator


class Slots:
    """Places for downloads; whoever finds none waits.

    Args:
        in_all: how many there are.
        per_host: how many one host may take.
    """

    def __init__(self, in_all: int, per_host: int) -> None:
        self._in_all, self._per_host = in_all, per_host
        self._taken: Counter[str] = Counter()
        self._freed = threading.Condition()

    @contextlib.contextmanager
    def one(self, host: str, seconds: float | None) -> Iterator[bool]:
        """Hold a place while the block runs; tells whether there was one in time.

        Args:
            host: to download from.
            seconds: how long to wait; None: as long as it takes.
        """
        with self._freed:
            got = self._freed.wait_for(lambda: self._free(host), seconds)
            self._taken[host] += got
        try:
            yield got
        finally:
            with self._freed:
                self._taken[host] -= got
                if not self._taken[host]:
                    del self._taken[host]
                self._freed.notify_all()

    def _free(self, host: str) -> bool:
        return self._taken.total() < self._in_all and self._taken[host] < self._per_host
