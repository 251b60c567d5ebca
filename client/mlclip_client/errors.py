"""What can go wrong, as one tree; `kind` is the word that stands before the message in output rows.

    ClientError
    ├── BadImage            decode       this image cannot be used; the others can
    │   ├── TooLarge        too large    the file is over `max_bytes`
    │   ├── Unreadable      read         the file cannot be read: gone, no permission, not a regular file
    │   └── DownloadFailed  download     the address gives no file: refused, gone, too slow, or asks not to be indexed
    ├── UnknownHead         head         a server does not have that head (the message lists what it has)
    ├── ServerUnavailable   unavailable  nobody answers at the address, the connection broke, or the models are gone
    ├── DeadlineExceeded    deadline     no answer within `timeout`
    ├── ServerBusy          busy         the server has no room for another request
    ├── ServerError         server       the server refused, failed, or answered something unexpected
    └── JobError            job          the folder of a job cannot be used, or the job is stopped
        └── WrongJob        wrong job    the folder holds no job, or another one than is asked for

Wrong arguments are `ValueError`, as everywhere in Python.
"""

from __future__ import annotations

from typing import ClassVar

import grpc  # type: ignore[import-untyped]

BAD_IMAGE_MARK = "bad image: "
"""How the server's `preprocess` model begins the message about an image that it cannot decode."""
_LOST = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


class ClientError(Exception):
    """Anything that this package reports on purpose; the message is one line that says what to do."""

    kind: ClassVar[str] = "error"

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class BadImage(ClientError):
    """This image cannot be decoded."""

    kind = "decode"


class TooLarge(BadImage):
    """The image file is larger than `max_bytes`."""

    kind = "too large"


class Unreadable(BadImage):
    """The image file cannot be read."""

    kind = "read"


class DownloadFailed(BadImage):
    """The file behind an address cannot be fetched, or may not be."""

    kind = "download"


class UnknownHead(ClientError):
    """A head is not served, none was named and there are several, or several servers have different versions of it."""

    kind = "head"


class ServerUnavailable(ClientError):
    """No server answers, the connection broke while the request was under way, or the server gives its models up."""

    kind = "unavailable"


class DeadlineExceeded(ClientError):
    """The server did not answer in time."""

    kind = "deadline"


class ServerBusy(ClientError):
    """The server has no room for another request now."""

    kind = "busy"


class ServerError(ClientError):
    """The server refused or failed, or its answer is not what its configuration promises."""

    kind = "server"


class JobError(ClientError):
    """The folder of a job cannot be used as asked, or the job was stopped; what it has done is kept."""

    kind = "job"


class WrongJob(JobError):
    """The folder holds no job, something else, or a job in which something else was asked."""

    kind = "wrong job"


def from_rpc(error: grpc.RpcError, url: str, timeout: float) -> ClientError:
    """Translate what gRPC raised into the tree above.

    Args:
        error: a finished call's error, with `code()` and `details()`.
        url: host:port, for the message.
        timeout: the deadline that the call had, in seconds.
    """
    code, details = error.code(), error.details() or "no details"
    _, mark, reason = details.partition(BAD_IMAGE_MARK)
    if mark:
        return BadImage(reason)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"no answer from {url} within {timeout:g} s; raise the timeout or ask for less")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ServerBusy(f"{url} has no room for another request: {details}")
    if code in _LOST:
        return ServerUnavailable(f"no server answers at {url}: {details}")
    if code is grpc.StatusCode.NOT_FOUND:  # of a model that it had just listed: it is about to stop, or loads another
        return ServerUnavailable(f"{url} has given the model up: {details}")
    return ServerError(f"{url} answered {code.name}: {details}")
