"""Events of a run: in a log, a JSON object a line."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_LOG = logging.getLogger("mlclip_client")
_LOG.addHandler(logging.NullHandler())


def tell(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write an event into the log, if there is one.

    Args:
        event: what happened, in words that do not change.
        level: of `logging`.
        fields: what belongs to it.
    """
    _LOG.log(level, event, extra={"fields": fields})


@contextlib.contextmanager
def logged(file: Path | None) -> Iterator[None]:
    """Append events to a file: `time`, `level`, `event` and what belongs to it.

    Raises:
        OSError: the file cannot be written.
    """
    if file is None:
        yield
        return
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(_Lines())
    level, propagates = _LOG.level, _LOG.propagate
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False
    try:
        yield
    finally:
        _LOG.removeHandler(handler)
        _LOG.setLevel(level)
        _LOG.propagate = propagates
        handler.close()


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(line | getattr(record, "fields", {}), ensure_ascii=True, default=str)
