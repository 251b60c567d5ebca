"""What a reader may take, and how it goes about the web."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

USER_AGENT = f"mlclip-client/{version('mlclip-client')}"
"""What sites see where nothing else is said."""


@dataclass(frozen=True)
class Limits:
    """Bounds of what is read, and manners towards the sites it is read from.

    Attributes:
        max_bytes: larger files are refused, wherever they lie.
        download_seconds: each download must be whole by then, redirects and retries included.
        redirects: how many are followed.
        connections: downloads at once, in all.
        per_host: downloads at once from one host.
        private: addresses that are not of the public internet may be reached, and machines by protocols other than
            http and https (ftp, sftp, ...), whose addresses cannot be checked.
        ignore_robots: a response is used though its `X-Robots-Tag` says `noindex`, `none`, `noai` or `noimageai`.
        user_agent: sent with each request; the word before a slash is the name that `X-Robots-Tag` may address.
        proxy: `http://host:port` of a proxy for http and https; the environment's is never used. The proxy resolves
            names itself, so only hosts that are written as numbers can be checked; let it refuse private ones.
    """

    max_bytes: int = 64 * 2**20
    download_seconds: float = 30.0
    redirects: int = 5
    connections: int = 32
    per_host: int = 4
    private: bool = False
    ignore_robots: bool = False
    user_agent: str = USER_AGENT
    proxy: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_bytes", "connections", "per_host"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.download_seconds > 0:
            raise ValueError(f"download_seconds must be more than 0, not {self.download_seconds}")
        if self.redirects < 0:
            raise ValueError(f"redirects must be at least 0, not {self.redirects}")
        if self.proxy is not None and not self.proxy.lower().startswith(("http://", "https://")):
            raise ValueError(f"proxy {self.proxy}: write http://host:port or https://host:port")
        if not self.user_agent.strip() or not self.user_agent.isascii() or not self.user_agent.isprintable():
            raise ValueError(f"user_agent must be printable ASCII, not {self.user_agent!r}")
