"""Find in Triton's log the reason why it did not start."""

import re
from collections.abc import Mapping

from mlclip_serve.errors import ModelError, ServeError, StalledError, StartError
from mlclip_serve.ports import taken

_MODEL = re.compile(r"failed to load '(?P<name>[^']+)' version (?P<version>\d+): (?P<reason>.*)")
_REPOSITORY = re.compile(r"Poll failed for model directory '(?P<name>[^']+)': (?P<reason>.*)")
_SOCKET = re.compile(r"Socket '[^']*:(?P<port>\d+)' already in use")
_FATAL = re.compile(r"^(?P<reason>.*(?:creating server: |error while loading|failed to ).*)$", re.MULTILINE)
_STALLED = "boost::interprocess::lock_exception"  # a process did not answer within Triton's own patience
_KIND = re.compile(r"^(?:(?:Internal|Invalid argument|Not found|Unavailable|Unsupported): |TritonModelException: )+")


def explain(log: str, address: str, ports: Mapping[str, int]) -> ServeError | None:
    """Find the error to raise in tritonserver's log: a port in use, a model that does not load, or its last error.

    None if the log shows no cause.
    """
    if found := _SOCKET.search(log):
        port = int(found["port"])
        service = next((name for name, number in ports.items() if number == port), "grpc")
        return taken(address, service, port)
    if _STALLED in log:
        return StalledError(
            "Triton lost a Python model's process, which got no CPU time: stop other work, or use --cores"
        )
    if found := _MODEL.search(log) or _REPOSITORY.search(log):
        return ModelError(f"model '{found['name']}' does not load: {_one_line(found['reason'])}")
    if found := _FATAL.search(log):
        return StartError(f"Triton did not start: {_one_line(found['reason'])}")
    return None


def _one_line(reason: str) -> str:
    """Remove quotes, error kinds and a Python traceback (Triton escapes its line breaks) from a reason."""
    text = reason.split("\\n")[0].strip().strip('"')
    return _KIND.sub("", text).rstrip(".")
