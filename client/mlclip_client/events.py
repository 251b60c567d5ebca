"""Events of a run: JSON lines in a log file, and for some a notice on standard error."""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_LOG = logging.getLogger("mlclip_client")
_LOG.addHandler(logging.NullHandler())


def tell(event: str, level: int = logging.INFO, notice: str = "", **fields: Any) -> None:
    """Write an event, in words that do not change, into the log, if there is one, with its level and details.

    `notice` is the line on standard error while a command runs; empty: none.
    """
    _LOG.log(level, event, extra={"fields": fields, "notice": notice})


@contextlib.contextmanager
def logged(file: Path | None) -> Iterator[None]:
    """Show notices on standard error; append events to a file, if given, with `time`, `level`, `event` and details."""
    handlers: list[logging.Handler] = [_Notices()]
    if file is not None:
        try:
            handlers.append(logging.FileHandler(file, encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"--log {file}: {error.strerror}: name a file that can be written") from error
        handlers[-1].setFormatter(_Lines())
    level, propagates = _LOG.level, _LOG.propagate
    for handler in handlers:
        _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False
    try:
        yield
    finally:
        _LOG.setLevel(level)
        _LOG.propagate = propagates
        for handler in handlers:
            _LOG.removeHandler(handler)
            handler.close()


class _Notices(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if notice := getattr(record, "notice", ""):
            sys.stderr.write(notice + "\n")


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(line | getattr(record, "fields", {}), ensure_ascii=True, default=str)
