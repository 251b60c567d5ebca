"""Why images have no picture in a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from mlclip_client.inputs.names import is_address
from mlclip_client.output.rows import REJECTED_KINDS

Reason = Literal["memory", "address", "error", "unread"]
"""It came from memory; it is at an address, and nothing is fetched; its row says that it cannot be used; it could not
be read now."""


def count_reasons(images: Iterable[tuple[str | None, str | None]], *, fetched: bool) -> Counter[Reason]:
    """Count why images have no picture.

    Args:
        images: path and kind of error of each.
        fetched: whether somebody tried to get those at addresses.
    """
    return Counter(_reason(path, kind, fetched) for path, kind in images)


def _reason(path: str | None, kind: str | None, fetched: bool) -> Reason:
    if path is None:
        return "memory"
    if is_address(path) and not fetched:
        return "address"
    return "error" if kind in REJECTED_KINDS else "unread"
