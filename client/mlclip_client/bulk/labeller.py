"""From one input to its row: read, hash, ask unless the same bytes were asked before."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mlclip_client.bulk.backends import Backend
from mlclip_client.errors import BadImage, ClientError, JobError, ServerUnavailable
from mlclip_client.inputs.item import Item
from mlclip_client.output.cache import AnswerCache
from mlclip_client.output.rows import Row, RowOptions, failure, finding, to_row
from mlclip_client.values import HeadInfo


class Reads(Protocol):
    """What gives the bytes of inputs."""

    def read(self, item: Item) -> bytes:
        """Give the bytes; raises BadImage."""


@dataclass(frozen=True)
class Pin:
    """The model that a head's answers must come from.

    Attributes:
        version: of the head.
        labels_sha256: of its label list.
    """

    version: str
    labels_sha256: str


def pins(heads: tuple[HeadInfo, ...]) -> dict[str, Pin]:
    """The versions that a server has now, by head."""
    return {head.name: Pin(head.version, head.labels_sha256) for head in heads}


def check_pins(pinned: Mapping[str, Pin], found: Mapping[str, Pin]) -> None:
    """Refuse other models than those that a job was begun with; raises JobError."""
    for name, pin in pinned.items():
        if found[name] != pin:
            differs = f"version {found[name].version} now, and this job was begun with {pin.version}"
            if found[name].version == pin.version:
                differs = "other labels now than when this job was begun"
            raise JobError(f"head {name} has {differs}: serve that one again, or begin a new job")


@dataclass(frozen=True)
class Labeller:
    """Turns inputs into rows; may be used from several threads.

    Attributes:
        client: answers for images.
        reader: gives the bytes.
        findings: what was asked before.
        options: which columns rows have.
        pinned: versions that answers must come from; None: whatever the server has.
        goes_on: whether an input gets a row even when no server answers; otherwise ServerUnavailable is raised.
    """

    client: Backend
    reader: Reads
    findings: AnswerCache
    options: RowOptions
    pinned: dict[str, Pin] | None = None
    goes_on: bool = True

    def label(self, item: Item) -> Row:
        """Give the row of an input: labels, or an error with its kind.

        Raises:
            ServerUnavailable: no server answered for as long as the client is patient, and this does not go on.
            JobError: the server's models are no longer those that are pinned.
        """
        started = time.monotonic()
        try:
            data = self.reader.read(item)
        except BadImage as error:
            return to_row(item.path, failure(error, self.options), seconds=time.monotonic() - started)
        digest = hashlib.sha256(data).hexdigest()
        key = (
            digest
            if item.text is None
            else f"{digest} {hashlib.sha256(item.text.encode(errors='replace')).hexdigest()}"
        )
        try:
            found = self.findings.find(key, lambda: self._ask(data, item.text))
        except ServerUnavailable as error:
            if not self.goes_on:
                raise
            found = failure(error, self.options)
        return to_row(item.path, found, sha256=digest, size=len(data), seconds=time.monotonic() - started)

    def _ask(self, data: bytes, text: str | None) -> Row:
        try:
            prediction = self.client.classify(data, text)
        except ServerUnavailable:
            raise
        except ClientError as error:
            return failure(error, self.options)
        if self.pinned is not None:
            answers = prediction.answers
            check_pins(self.pinned, {name: Pin(each.version, each.labels_sha256) for name, each in answers.items()})
        return finding(prediction, self.options)
