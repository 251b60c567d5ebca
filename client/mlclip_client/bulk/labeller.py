"""From one input to its row: read it, hash it, and ask for its labels unless the same bytes have an answer."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

from mlclip_client.bulk.backends import Backend
from mlclip_client.errors import BadImage, ClientError, JobError, KnownFile, ServerUnavailable
from mlclip_client.inputs import Reader
from mlclip_client.inputs.item import Item
from mlclip_client.options import RowOptions
from mlclip_client.output.cache import AnswerCache
from mlclip_client.output.rows import Row, failure, success, to_row
from mlclip_client.values import HeadInfo


@dataclass(frozen=True)
class Pin:
    """The version of a head, and the hash of its label list, that all answers must come from."""

    version: str
    labels_sha256: str


def pins(heads: tuple[HeadInfo, ...]) -> dict[str, Pin]:
    """The versions that a server has now, by head."""
    return {head.name: Pin(head.version, head.labels_sha256) for head in heads}


def check_pins(pinned: Mapping[str, Pin], served: Mapping[str, Pin]) -> None:
    """Raise JobError if the heads that are served are not those that a job was begun with."""
    for name, pin in pinned.items():
        if served[name] != pin:
            differs = f"version {served[name].version} now, and this job was begun with {pin.version}"
            if served[name].version == pin.version:
                differs = "other labels now than when this job was begun"
            raise JobError(f"head {name} has {differs}: serve that one again, or begin a new job")


@dataclass(frozen=True)
class Labeller:
    """Turns inputs into rows; may be used from several threads."""

    backend: Backend
    reader: Reader
    cache: AnswerCache
    columns: RowOptions
    pinned: Mapping[str, Pin] | None = None  # the heads that a job was begun with; None without a job
    known: frozenset[bytes] = frozenset()  # hashes of files that are not asked about

    def label(self, item: Item) -> Row:
        """Give the row of an input: labels, or an error with its kind.

        In a job, raises ServerUnavailable if no server answered within the retry time, JobError if its models have
        changed.
        """
        started = time.monotonic()
        sha256 = size = None
        try:
            data = self.reader.read(item)
            digest = hashlib.sha256(data)
            sha256, size = digest.hexdigest(), len(data)
            if digest.digest() in self.known:
                raise KnownFile("its hash is on the list of known files")
            key = sha256
            if item.text is not None:
                key += " " + hashlib.sha256(item.text.encode(errors="replace")).hexdigest()
            found = self.cache.find(key, lambda: self._ask(data, item.text))
        except (BadImage, ServerUnavailable) as error:
            if self.pinned is not None and not error.input_fault:
                raise
            found = failure(error, self.columns)
        return to_row(item.path, found, sha256=sha256, size=size, seconds=time.monotonic() - started)

    def _ask(self, data: bytes, text: str | None) -> Row:
        try:
            prediction = self.backend.classify(data, text)
        except ServerUnavailable:
            raise
        except ClientError as error:
            return failure(error, self.columns)
        if self.pinned is not None:
            answers = prediction.answers
            check_pins(self.pinned, {name: Pin(each.version, each.labels_sha256) for name, each in answers.items()})
        return success(prediction, self.columns)
