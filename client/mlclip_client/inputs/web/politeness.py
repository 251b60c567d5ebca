"""What sites may expect of a visitor: few downloads at once, and respect for the response header `X-Robots-Tag`."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator

_REFUSING = frozenset({"noindex", "none", "noai", "noimageai"})
_WITH_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


class Slots:
    """Limits how many downloads run at once, in all and from one host."""

    def __init__(self, in_all: int, per_host: int) -> None:
        self._in_all, self._per_host = in_all, per_host
        self._taken: Counter[str] = Counter()
        self._freed = threading.Condition()

    @contextlib.contextmanager
    def one(self, host: str, seconds: float | None) -> Iterator[bool]:
        """Hold a slot while the block runs; tells whether one was free within `seconds` (None: without limit)."""
        with self._freed:
            got = self._freed.wait_for(
                lambda: self._taken.total() < self._in_all and self._taken[host] < self._per_host, seconds
            )
            self._taken[host] += got
        try:
            yield got
        finally:
            with self._freed:
                self._taken[host] -= got
                if not self._taken[host]:
                    del self._taken[host]
                self._freed.notify_all()


def refusal(values: Iterable[str], user_agent: str) -> str:
    """Give the directive by which a site asks not to be indexed, from the values of its header; empty if there is none.

    The directives are those of https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag, and `noai`
    and `noimageai` (introduced by DeviantArt in 2022), which img2dataset respects too. A directive counts if it
    addresses no robot, or ours; a robot's name holds for all that follows, up to the next name. Ours is the part of the
    user agent before a slash.
    """
    ours = ("", "*", user_agent.partition("/")[0].strip().lower())
    for value in values:
        robot = ""
        for piece in value.lower().split(","):
            name, colon, rest = piece.partition(":")
            if colon and name.strip() not in _WITH_VALUES:
                robot, piece = name.strip(), rest
            if robot in ours and piece.strip() in _REFUSING:
                return piece.strip()
    return ""
