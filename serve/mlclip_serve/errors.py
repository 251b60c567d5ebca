"""What can go wrong, as one tree.

ServeError
├── InstallationError   tritonserver, its stub, libpython or shared memory is missing
├── RepositoryError     the model repository is missing, empty or incomplete
│   └── ModelError      a model does not load, or an ensemble fails on a real inference
├── PortError           a port is taken
└── StartError          the server ended, or did not become ready in time

Every message is one line that says what to do; `log` names Triton's log if there is one.
"""

from __future__ import annotations

from pathlib import Path


class ServeError(Exception):
    """The base of all errors of this package.

    Attributes:
        log: Triton's log of the failed start; None if Triton was never started.
    """

    log: Path | None = None


class InstallationError(ServeError):
    """Something that the embedded Triton needs is not on this machine."""


class RepositoryError(ServeError):
    """The model repository cannot be served as it is."""


class ModelError(RepositoryError):
    """A model of the repository does not load, or fails on a real inference."""


class PortError(ServeError):
    """A chosen port is in use."""


class StartError(ServeError):
    """The server ended during its start, or did not become ready in time."""
