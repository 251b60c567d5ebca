"""Who answers for images: a server, or models in this process."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

from mlclip_client.bulk.request import Request, ServerOptions
from mlclip_client.client import Client
from mlclip_client.images import ImageLike
from mlclip_client.local.embedded import Embedded
from mlclip_client.server.pool import EndpointPool
from mlclip_client.values import HeadInfo, Prediction


class Backend(Protocol):
    """What the bulk tool needs of whoever answers; `Client` and `Embedded` have it.

    Attributes:
        transport: its `endpoints` tell who answers, its `retries` how many requests were sent again.
    """

    @property
    def transport(self) -> EndpointPool[Any]:
        """See above."""

    def asked_heads(self) -> tuple[HeadInfo, ...]:
        """The heads that are asked; raises ClientError."""

    def classify(self, image: ImageLike, text: str | None = None) -> Prediction:
        """Classify one image; raises ClientError."""


def open_backend(wanted: Request, asking: ServerOptions) -> contextlib.AbstractContextManager[Backend]:
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
        retry_seconds=asking.retry_seconds,
        via=asking.via,
        embeddings=columns.embeddings,
        explain=columns.explain,
        max_bytes=max_bytes,
    )
