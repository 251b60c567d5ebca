"""Start NVIDIA Triton on an mlclip model repository; no GPU, no container and no torch needed."""

from mlclip_serve.command import Settings
from mlclip_serve.errors import InstallationError, ModelError, PortError, RepositoryError, ServeError, StartError
from mlclip_serve.server import Server

__all__ = [
    "InstallationError",
    "ModelError",
    "PortError",
    "RepositoryError",
    "ServeError",
    "Server",
    "Settings",
    "StartError",
]
