"""Which versions of its heads a session's answers come from, when it has several servers or a server changes."""

import logging
import threading
from collections.abc import Iterable, Sequence

from mlclip_client.errors import UnknownHead
from mlclip_client.events import tell
from mlclip_client.values import HeadInfo


def newest(versions: Iterable[str]) -> str:
    """Give the highest of some version numbers, which is what Triton serves; empty if there is none."""
    return max(filter(str.isdecimal, versions), key=int, default="")


class VersionLock:
    """Keeps a session to one version of each head, with the same labels, on all its servers.

    A server that comes back with other versions is left out as long as another server may still have the locked ones.
    Once no server has them, the versions of the next server to answer are locked. Offers are url and heads of each
    server that answers; if two differ, raises UnknownHead. Embeddings must all be of one encoder.
    """

    def __init__(self, offers: Sequence[tuple[str, tuple[HeadInfo, ...]]], embeddings: bool = False) -> None:
        (first, self.heads), *others = offers
        for url, heads in others:
            if difference := self._difference(url, heads):
                raise UnknownHead(
                    f"{first} and {url} serve different models: {difference}; ask servers of the same models only"
                )
        self._embeddings = embeddings
        self._holders, self._lock = {url for url, _ in offers}, threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the heads."""
        return tuple(head.name for head in self.heads)

    def refuses(self, url: str, heads: tuple[HeadInfo, ...]) -> str | None:
        """Give the reason why a server with these heads must be left out; None: it may answer."""
        with self._lock:
            difference = self._difference(url, heads)
            if difference is None:
                self._holders.add(url)
                return None
            self._holders.discard(url)
            if self._holders or self._embeddings and _encoding(heads) != _encoding(self.heads):
                return f"{difference} as before: {url} is left out"
            self.heads, self._holders = heads, {url}
        tell("models changed", logging.WARNING, notice=f"{difference} as before: rows name theirs", url=url)
        return None

    def forget(self) -> None:
        """Stop waiting for servers that had the locked versions and do not answer."""
        with self._lock:
            self._holders.clear()

    def _difference(self, url: str, heads: tuple[HeadInfo, ...]) -> str | None:
        for locked, head in zip(self.heads, heads, strict=True):
            if head.version != locked.version:
                return f"head {head.name} has version {head.version} at {url}, not {locked.version}"
            if head.labels_sha256 != locked.labels_sha256:
                return f"head {head.name}, version {head.version}, has other labels at {url}, not the same"
        return None


def _encoding(heads: tuple[HeadInfo, ...]) -> tuple[str, int]:
    return heads[0].encoder, heads[0].embedding_size
