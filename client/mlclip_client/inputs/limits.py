"""Limits of what is read, and how the web is accessed."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from importlib.metadata import version

from mlclip_client.images import MAX_BYTES

USER_AGENT = f"mlclip-client/{version('mlclip-client')}"  # how the client introduces itself to sites by default


@dataclass(frozen=True)
class Limits:
    """Limits of what is read, and politeness towards sites."""

    max_bytes: int = MAX_BYTES  # size of the largest file that is read
    download_seconds: float = 30.0  # time limit of a download, redirects and retries included
    redirects: int = 5  # how many are followed
    connections: int = 32  # downloads at once
    per_host: int = 4  # downloads at once from one host
    # allow addresses outside the public internet, and protocols that reach machines without a check of their address
    # (ftp, sftp, …)
    private: bool = False
    # also use a response whose `X-Robots-Tag` says `noindex`, `none`, `noai` or `noimageai`
    ignore_robots: bool = False
    # sent with each request; the part before a slash is the name that `X-Robots-Tag` may address
    user_agent: str = USER_AGENT
    # `http://host:port` of a proxy for http and https; proxies of the environment are never used. A proxy resolves
    # names itself, so only hosts written as numbers can be checked; it should refuse private addresses.
    proxy: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_bytes", "connections", "per_host"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.download_seconds <= threading.TIMEOUT_MAX:
            raise ValueError(f"download_seconds must be more than 0, and finite, not {self.download_seconds}")
        if self.redirects < 0:
            raise ValueError(f"redirects must be at least 0, not {self.redirects}")
        if self.proxy is not None and not self.proxy.lower().startswith(("http://", "https://")):
            raise ValueError(f"proxy {self.proxy}: write http://host:port or https://host:port")
        if not self.user_agent.strip() or not self.user_agent.isascii() or not self.user_agent.isprintable():
            raise ValueError(f"user_agent must be printable ASCII, not {self.user_agent!r}")
