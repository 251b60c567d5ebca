"""Answers by content: the same bytes are sent to the server once, however often they occur."""

import json
import sqlite3
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path

from mlclip_client.errors import error_class
from mlclip_client.output.rows import Row, plain

MOST_IN_MEMORY = 20_000
_SCHEMA = "CREATE TABLE IF NOT EXISTS findings (key TEXT PRIMARY KEY, found BLOB) WITHOUT ROWID"


class AnswerCache(AbstractContextManager["AnswerCache"]):
    """Content -> the part of its row that all inputs with this content share; `saved` counts those that took it.

    Several threads may use one cache, and several processes may share its file. Without one, the cache is in memory and
    has only the latest 20,000.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.saved = 0
        self._lock = threading.Lock()
        self._pending: dict[str, Future[Row]] = {}
        self._latest: dict[str, bytes] = {}
        self._file = file
        self._database = None if file is None else _open(file)

    def find(self, key: str, ask: Callable[[], Row]) -> Row:
        """Give the answer for a key; of several callers at once, only the first asks, and the others wait for it.

        Exceptions of `ask` reach every caller that waits. They are not kept, and neither are errors that may not occur
        the next time. Raises OSError if the file cannot be read or written.
        """
        with self._lock:
            known = self._get(key)
            first = known is None and key not in self._pending
            if first:
                self._pending[key] = Future()
            pending = self._pending.get(key)
            self.saved += not first
        if known is not None:
            found: Row = json.loads(zlib.decompress(known))
            return found
        assert pending is not None
        return self._ask(key, ask) if first else pending.result()

    def __exit__(self, *_: object) -> None:
        if self._database is not None:
            self._database.close()

    def _ask(self, key: str, ask: Callable[[], Row]) -> Row:
        try:
            found = ask()
            self._keep(key, found)
        except BaseException as error:  # including a full disk: other callers must not wait for ever
            self._finished(key).set_exception(error)
            raise
        self._finished(key).set_result(found)
        return found

    def _finished(self, key: str) -> Future[Row]:
        with self._lock:
            return self._pending.pop(key)

    def _keep(self, key: str, found: Row) -> None:
        kind = found["error_kind"]
        if kind is not None and not error_class(kind).cacheable:
            return
        data = zlib.compress(json.dumps(plain(found)).encode(), 1)
        with self._lock:
            if self._database is not None:
                self._query("INSERT OR IGNORE INTO findings VALUES (?, ?)", key, data)
                return
            self._latest[key] = data
            if len(self._latest) > MOST_IN_MEMORY:
                del self._latest[next(iter(self._latest))]

    def _get(self, key: str) -> bytes | None:
        if self._database is None:
            return self._latest.get(key)
        row = self._query("SELECT found FROM findings WHERE key = ?", key)
        return None if row is None else row[0]

    def _query(self, statement: str, *values: str | bytes) -> tuple[bytes] | None:
        assert self._database is not None
        try:
            row: tuple[bytes] | None = self._database.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise OSError(f"{self._file}: {error}") from error
        return row


def _open(file: Path) -> sqlite3.Connection:
    """Open the file; a corrupt one (only a power failure causes it) is replaced."""
    try:
        return _connected(file)
    except sqlite3.OperationalError as error:  # for example a lock, which does not mean that the file is corrupt
        raise OSError(f"{file}: {error}") from error
    except sqlite3.DatabaseError:
        for part in ("", "-wal", "-shm"):
            file.with_name(file.name + part).unlink(missing_ok=True)
        return _connected(file)


def _connected(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, timeout=60, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=OFF")  # faster, and everything in the file can be asked again
        database.execute(_SCHEMA)
        database.execute("SELECT count(*) FROM (SELECT 1 FROM findings LIMIT 1)")
    except sqlite3.Error:
        database.close()
        raise
    return database
