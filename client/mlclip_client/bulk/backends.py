"""What answers for images: servers, or models in this process."""

import contextlib
from typing import Any

from mlclip_client.bulk.request import Request
from mlclip_client.client import Client
from mlclip_client.local.embedded import Embedded
from mlclip_client.options import ServerOptions

Backend = Client | Embedded


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
