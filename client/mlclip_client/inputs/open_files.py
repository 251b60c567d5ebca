"""A few archives and Parquet files that stay open between reads."""

import contextlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import TypeVar, cast

from mlclip_client.inputs.parquet import BytesColumn
from mlclip_client.inputs.streams import Direct, Forward

Opened = Direct | Forward | BytesColumn
T = TypeVar("T", bound=Opened)


class OpenFiles:
    """Keeps files open for the next reader, `room` that are not in use; may be used from several threads."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._open: OrderedDict[Hashable, Opened] = OrderedDict()
        self._users: Counter[Hashable] = Counter()

    @contextlib.contextmanager
    def taken(self, key: Hashable, open_: Callable[[], T]) -> Iterator[T]:
        """Give the file that is open under a key, or open it; it is not closed while the block runs."""
        with self._lock:
            if key not in self._open:
                self._open[key] = open_()
            self._open.move_to_end(key)
            self._users[key] += 1
            thing = cast(T, self._open[key])
        try:
            yield thing
        finally:
            with self._lock:
                self._users[key] -= 1
                idle = [key for key in self._open if not self._users[key]]
                for key in idle[: max(0, len(idle) - self._room)]:
                    self._open.pop(key).close()
                    del self._users[key]

    def close(self) -> None:
        """Close everything."""
        with self._lock:
            for thing in self._open.values():
                thing.close()
            self._open.clear()
