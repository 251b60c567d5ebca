"""What is known of contents already: the same bytes are asked for once, however often they come."""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

from mlclip_client.output.rows import Row, plain

MOST_IN_MEMORY = 20_000
_SCHEMA = "CREATE TABLE IF NOT EXISTS findings (key TEXT PRIMARY KEY, found BLOB) WITHOUT ROWID"


class AnswerCache:
    """Content -> what the heads said of it. May be used from several threads, and its file from several processes.

    Args:
        file: where to keep it, so that a job goes on with it; None: in memory, and only the 20,000 latest.

    Attributes:
        saved: how many inputs took their answer from another one.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.saved = 0
        self._lock = threading.Lock()
        self._asking: dict[str, Future[Row]] = {}
        self._latest: dict[str, bytes] = {}
        self._file = file
        self._base = None if file is None else _open(file)

    def find(self, key: str, ask: Callable[[], Row]) -> Row:
        """Give what is known, or ask, once for all that want the same at the same time.

        Args:
            key: of the content.
            ask: gives what a row shares with others of the same content. What it raises goes to all who wait for it,
                and is not kept; nor is what the server failed to answer, for another one may succeed.

        Raises:
            OSError: the file cannot be read or written.
        """
        with self._lock:
            known = self._get(key)
            if known is None and (first := key not in self._asking):
                self._asking[key] = Future()
            flight = self._asking.get(key)
            self.saved += known is not None or not first
        if known is not None:
            found: Row = json.loads(zlib.decompress(known))
            return found
        assert flight is not None
        if not first:
            return flight.result()
        return self._ask(key, ask, flight)

    def close(self) -> None:
        """Close the file."""
        if self._base is not None:
            self._base.close()

    def _ask(self, key: str, ask: Callable[[], Row], flight: Future[Row]) -> Row:
        try:
            found = ask()
            lasting = found["error_kind"] in (None, "decode")
            data = zlib.compress(json.dumps(plain(found)).encode(), 1) if lasting else None
            with self._lock:
                if data is not None:
                    self._put(key, data)
                del self._asking[key]
        except BaseException as error:  # also of a full disk: who waits must hear of it
            with self._lock:
                del self._asking[key]
            flight.set_exception(error)
            raise
        flight.set_result(found)
        return found

    def _get(self, key: str) -> bytes | None:
        if self._base is None:
            return self._latest.get(key)
        row = self._query("SELECT found FROM findings WHERE key = ?", key)
        return None if row is None else row[0]

    def _put(self, key: str, data: bytes) -> None:
        if self._base is not None:
            self._query("INSERT OR IGNORE INTO findings VALUES (?, ?)", key, data)
            return
        self._latest[key] = data
        if len(self._latest) > MOST_IN_MEMORY:
            del self._latest[next(iter(self._latest))]

    def _query(self, statement: str, *values: str | bytes) -> tuple[bytes] | None:
        assert self._base is not None
        try:
            row: tuple[bytes] | None = self._base.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise OSError(f"{self._file}: {error}") from error
        return row

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(file: Path) -> sqlite3.Connection:
    """Open the file; one that is broken, which only a loss of power can do, is begun anew."""
    try:
        return _connected(file)
    except sqlite3.OperationalError as error:  # it is locked, say: that says nothing of what it holds
        raise OSError(f"{file}: {error}") from error
    except sqlite3.DatabaseError:
        for part in ("", "-wal", "-shm"):
            file.with_name(file.name + part).unlink(missing_ok=True)
        return _connected(file)


def _connected(file: Path) -> sqlite3.Connection:
    base = sqlite3.connect(file, timeout=60, isolation_level=None, check_same_thread=False)
    try:
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("PRAGMA synchronous=OFF")  # it saves work, and holds nothing that cannot be asked again
        base.execute(_SCHEMA)
        base.execute("SELECT count(*) FROM (SELECT 1 FROM findings LIMIT 1)")
    except sqlite3.Error:
        base.close()
        raise
    return base
