"""What answers for images: servers, or models in this process."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

from mlclip_client.bulk.request import Request
from mlclip_client.client import Client
from mlclip_client.images import ImageLike
from mlclip_client.local.embedded import Embedded
from mlclip_client.options import ServerOptions
from mlclip_client.server.pool import EndpointPool
from mlclip_client.values import HeadInfo, Prediction


class Backend(Protocol):
    """What the bulk tool needs of `Client` or `Embedded`."""

    @property
    def transport(self) -> EndpointPool[Any]:
        """Its `endpoints` tell which servers answer, its `retries` how many requests were sent again."""

    def asked_heads(self) -> tuple[HeadInfo, ...]:
        """The heads that are asked; raises ClientError."""

    def classify(self, image: ImageLike, text: str | None = None) -> Prediction:
        """Classify one image; raises ClientError."""


def open_backend(request: Request, server: ServerOptions) -> contextlib.AbstractContextManager[Backend]:
    """Open what answers a request; raises ClientError or ValueError."""
    asked: dict[str, Any] = {
        "heads": request.heads,
        "via": server.via,
        "embeddings": request.columns.embeddings,
        "explain": request.columns.explain,
        "max_bytes": request.limits.max_bytes,
    }
    if server.embedded is not None:
        return Embedded(server.embedded, threads=server.threads, **asked)
    return Client(server.urls, timeout=server.timeout, retry_seconds=server.retry_seconds, security=server, **asked)
