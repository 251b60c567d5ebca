"""Everything that can go wrong, as one tree; `kind` is what rows, logs and `--kind` call an error.

    ClientError
    ├── BadImage            decode       this image cannot be decoded; the others are not affected
    │   ├── TooLarge        too large    the file is larger than `max_bytes`, or over the server's limits
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

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import grpc  # type: ignore[import-untyped]

BAD_IMAGE_MARK = "bad image: "
"""How the server's `preprocess` model begins its message about an image that it cannot decode."""
TOO_LARGE_MARK = "the image is too large: "
"""How it goes on if the image is over the server's limits."""
KINDS: dict[str, type[ClientError]] = {}
"""Kind -> class."""


class ClientError(Exception):
    """Any error that this package raises on purpose; the message is one line that says what to do.

    Attributes:
        kind: the name of this kind of error in rows.
        input_fault: the input is at fault; otherwise the server or the connection.
        retryable: labelling the same input again may succeed.
        cacheable: the same bytes always fail in this way.
    """

    kind: ClassVar[str] = "error"
    input_fault: ClassVar[bool] = False
    retryable: ClassVar[bool] = False
    cacheable: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "kind" in vars(cls):
            KINDS[cls.kind] = cls

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class BadImage(ClientError):
    """This image cannot be decoded."""

    kind = "decode"
    input_fault = True
    cacheable = True


class TooLarge(BadImage):
    """The image file is larger than `max_bytes`, or over the limits of the server."""

    kind = "too large"
    cacheable = False


class Unreadable(BadImage):
    """The image file cannot be read."""

    kind = "read"
    retryable = True
    cacheable = False


class DownloadFailed(BadImage):
    """The file at an address cannot be downloaded, or must not be."""

    kind = "download"
    retryable = True
    cacheable = False


class KnownFile(BadImage):
    """The file is on a list of known ones, and no server was asked."""

    kind = "known"


class UnknownHead(ClientError):
    """A head is not served, none was named and there are several, or several servers have different versions of it."""

    kind = "head"


class NoAnswer(ClientError):
    """The request was not answered; the same request may be sent again."""

    retryable = True


class ServerUnavailable(NoAnswer):
    """No server answers, the connection broke during the request, or the server has unloaded its models."""

    kind = "unavailable"


class DeadlineExceeded(NoAnswer):
    """The server did not answer in time."""

    kind = "deadline"


class ServerBusy(NoAnswer):
    """The server has no room for another request now."""

    kind = "busy"


class ServerError(ClientError):
    """The server refused or failed, or its answer is not what its configuration promises."""

    kind = "server"
    retryable = True


class JobError(ClientError):
    """The folder of a job cannot be used as asked, or the job was stopped; finished shards are kept."""

    kind = "job"


class WrongJob(JobError):
    """The folder holds no job, something else, or a job with another request."""

    kind = "wrong job"


RETRYABLE_KINDS = frozenset(kind for kind, each in KINDS.items() if each.retryable)


_SYMPTOMS: dict[str, tuple[type[ClientError], str]] = {
    "is not healthy": (ServerUnavailable, "a model's process has died"),
    "increase the shared memory pool": (ServerBusy, "its shared memory is full"),
    "equest timeout expired": (ServerBusy, "the request waited too long in its queue"),
}
"""What Triton's messages tell of the server's own state, whatever their code is."""


def error_class(kind: str) -> type[ClientError]:
    """Give the class of a kind of error; `ClientError` if the kind is unknown."""
    return KINDS.get(kind, ClientError)


def from_rpc(error: grpc.RpcError, url: str, timeout: float) -> ClientError:
    """Translate the error of a finished call; `timeout` was its deadline, in seconds."""
    from grpc import StatusCode

    code, details = error.code(), error.details() or "no details"
    _, mark, reason = details.partition(BAD_IMAGE_MARK)
    if mark:
        return TooLarge(reason) if reason.startswith(TOO_LARGE_MARK) else BadImage(reason)
    for symptom, (kind, state) in _SYMPTOMS.items():
        if symptom in details:
            return kind(f"{url}: {state}: {details}")
    if code is StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"no answer from {url} within {timeout:g} s; raise the timeout or ask for less")
    if code is StatusCode.RESOURCE_EXHAUSTED:
        return ServerBusy(f"{url} has no room for another request: {details}")
    if code in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED):
        return ServerUnavailable(f"no server answers at {url}: {details}")
    if code is StatusCode.NOT_FOUND:  # of a model that was just listed: the server is stopping, or loads another
        return ServerUnavailable(f"{url} has unloaded the model: {details}")
    return ServerError(f"{url} answered {code.name}: {details}")
