"""Everything that can go wrong, as one tree; `kind` is what rows, logs and `--kind` call an error.

    ClientError
    ├── BadImage            decode       this image cannot be decoded; the others are not affected
    │   ├── TooLarge        too large    the file is larger than `max_bytes`
    │   ├── Unreadable      read         the file cannot be read: missing, no permission, not a regular file
    │   └── DownloadFailed  download     the address gives no file: refused, gone, too slow, or not to be indexed
    ├── UnknownHead         head         a server does not have that head (the message lists what it has)
    ├── NoAnswer                         the request was not answered and may be sent again
    │   ├── ServerUnavailable  unavailable  no server answers, the connection broke, or the models are unloaded
    │   ├── DeadlineExceeded   deadline     no answer within `timeout`
    │   └── ServerBusy         busy         the server has no room for another request
    ├── ServerError         server       the server refused, failed, or answered something unexpected
    └── JobError            job          the folder of a job cannot be used, or the job was stopped
        └── WrongJob        wrong job    the folder holds no job, or a different one

Wrong arguments raise `ValueError`, as everywhere in Python.
"""

from __future__ import annotations

from typing import ClassVar

import grpc  # type: ignore[import-untyped]

BAD_IMAGE_MARK = "bad image: "
"""How the server's `preprocess` model begins its message about an image that it cannot decode."""
_LOST = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
KINDS: dict[str, type[ClientError]] = {}  # kind -> class


class ClientError(Exception):
    """Any error that this package raises on purpose; the message is one line that says what to do."""

    kind: ClassVar[str] = "error"  # the name of this kind of error in rows
    input_fault: ClassVar[bool] = False  # the input is at fault; otherwise the server or the connection
    retryable: ClassVar[bool] = False  # labelling the same input again may succeed
    cacheable: ClassVar[bool] = False  # the same bytes always fail in this way

    def __init_subclass__(cls, kind: str = "", **facts: bool) -> None:
        for name, value in facts.items():
            setattr(cls, name, value)
        if kind:
            cls.kind, KINDS[kind] = kind, cls

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class BadImage(ClientError, kind="decode", input_fault=True, cacheable=True):
    """This image cannot be decoded."""


class TooLarge(BadImage, kind="too large", cacheable=False):
    """The image file is larger than `max_bytes`."""


class Unreadable(BadImage, kind="read", retryable=True, cacheable=False):
    """The image file cannot be read."""


class DownloadFailed(BadImage, kind="download", retryable=True, cacheable=False):
    """The file at an address cannot be downloaded, or must not be."""


class UnknownHead(ClientError, kind="head"):
    """A head is not served, none was named and there are several, or several servers have different versions of it."""


class NoAnswer(ClientError, retryable=True):
    """The request was not answered; the same request may be sent again."""


class ServerUnavailable(NoAnswer, kind="unavailable"):
    """No server answers, the connection broke during the request, or the server has unloaded its models."""


class DeadlineExceeded(NoAnswer, kind="deadline"):
    """The server did not answer in time."""


class ServerBusy(NoAnswer, kind="busy"):
    """The server has no room for another request now."""


class ServerError(ClientError, kind="server", retryable=True):
    """The server refused or failed, or its answer is not what its configuration promises."""


class JobError(ClientError, kind="job"):
    """The folder of a job cannot be used as asked, or the job was stopped; finished shards are kept."""


class WrongJob(JobError, kind="wrong job"):
    """The folder holds no job, something else, or a job with another request."""


RETRYABLE_KINDS = frozenset(kind for kind, each in KINDS.items() if each.retryable)


def error_class(kind: str) -> type[ClientError]:
    """Give the class of a kind of error; `ClientError` if the kind is unknown."""
    return KINDS.get(kind, ClientError)


def from_rpc(error: grpc.RpcError, url: str, timeout: float) -> ClientError:
    """Translate the error of a finished call; `timeout` was its deadline, in seconds."""
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
    if code is grpc.StatusCode.NOT_FOUND:  # of a model that was just listed: the server is stopping, or loads another
        return ServerUnavailable(f"{url} has unloaded the model: {details}")
    return ServerError(f"{url} answered {code.name}: {details}")
