"""Start NVIDIA Triton on an mlclip model repository; no GPU, no container and no torch needed."""

from typing import TYPE_CHECKING, Any

from mlclip_serve.command import Settings
from mlclip_serve.errors import InstallationError, ModelError, PortError, RepositoryError, ServeError, StartError

if TYPE_CHECKING:
    from mlclip_serve.server import Server

__all__ = [
    "InstallationError", "ModelError", "PortError", "RepositoryError", "ServeError", "Server", "Settings",
    "StartError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name != "Server":  # which is slow to load
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mlclip_serve.server import Server

    return Server
