"""What can go wrong, as one tree; every message is one line that says what to do."""

from pathlib import Path


class ServeError(Exception):
    """The base of all errors of this package."""

    log: Path | None = None  # Triton's log of the failed start; None if Triton was never started


class InstallationError(ServeError):
    """The embedded Triton, its stub, libpython or shared memory is missing on this machine."""


class RepositoryError(ServeError):
    """The model repository is missing, empty or incomplete."""


class ModelError(RepositoryError):
    """A model of the repository does not load, or fails on a real inference."""


class PortError(ServeError):
    """A chosen port is in use, or cannot be listened on."""


class StartError(ServeError):
    """The server ended during its start, or did not become ready in time."""


class StalledError(StartError):
    """The machine was so busy that Triton lost a Python model's process."""
