"""Who answers for images: a server, or models in this process."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

from mlclip_client.balance import Balanced
from mlclip_client.client import Client
from mlclip_client.embedded import Embedded
from mlclip_client.images import ImageLike
from mlclip_client.settings import Asking, Wanted
from mlclip_client.values import HeadInfo, Prediction


class Asks(Protocol):
    """What the bulk tool needs of whoever answers; `Client` and `Embedded` have it.

    Attributes:
        transport: its `endpoints` tell who answers, its `retries` how many requests were sent again.
    """

    @property
    def transport(self) -> Balanced[Any]:
        """See above."""

    def asked_heads(self) -> tuple[HeadInfo, ...]:
        """The heads that are asked; raises ClientError."""

    def classify(self, image: ImageLike, text: str | None = None) -> Prediction:
        """Classify one image; raises ClientError."""


def open_asks(wanted: Wanted, asking: Asking) -> contextlib.AbstractContextManager[Asks]:
    """Open what answers; raises ClientError or ValueError."""
    columns, max_bytes = wanted.columns, wanted.limits.max_bytes
    if asking.embedded is not None:
        return Embedded(
            asking.embedded,
            heads=wanted.heads,
            threads=asking.threads,
            via=asking.via,
            embeddings=columns.embeddings,
            explain=columns.explain,
            max_bytes=max_bytes,
        )
    return Client(
        asking.urls,
        heads=wanted.heads,
        timeout=asking.timeout,
        patience=asking.patience,
        via=asking.via,
        embeddings=columns.embeddings,
        explain=columns.explain,
        max_bytes=max_bytes,
    )
