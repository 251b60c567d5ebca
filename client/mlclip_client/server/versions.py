"""Which versions of its heads a session's answers come from, when it has several servers or a server changes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from mlclip_client.errors import UnknownHead
from mlclip_client.events import tell
from mlclip_client.values import HeadInfo

Offer = tuple[str, tuple[HeadInfo, ...]]
"""A server's url, and the heads that are asked as it has them."""


class VersionLock:
    """The heads that all servers of a session have, in the same versions with the same labels.

    A server that comes back with others is left out while another one may still have those that were agreed on. Once
    nobody has them any more, the heads of the next server to answer are agreed on.

    Args:
        offers: of all servers that answer; one at least.
        embeddings: whether embeddings are asked for, which must all be of one encoder.

    Attributes:
        heads: those that were agreed on last.

    Raises:
        UnknownHead: two servers have different ones.
    """

    def __init__(self, offers: Sequence[Offer], embeddings: bool = False) -> None:
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
        """Of the heads."""
        return tuple(head.name for head in self.heads)

    def refuses(self, url: str, heads: tuple[HeadInfo, ...]) -> str | None:
        """Say why a server must be left out; None: it may answer.

        Args:
            url: of the server.
            heads: as it has them now.
        """
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
        """Wait for nobody any more who had these heads and does not answer."""
        with self._lock:
            self._holders.clear()

    def _difference(self, url: str, heads: tuple[HeadInfo, ...]) -> str | None:
        for agreed, head in zip(self.heads, heads, strict=True):
            if head.version != agreed.version:
                return f"head {head.name} has version {head.version} at {url}, not {agreed.version}"
            if head.labels_sha256 != agreed.labels_sha256:
                return f"head {head.name}, version {head.version}, has other labels at {url}, not the same"
        return None


def _encoding(heads: tuple[HeadInfo, ...]) -> tuple[str, int]:
    return heads[0].encoder, heads[0].embedding_size
