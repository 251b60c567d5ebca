"""One kind of feature on disk: an append-only file of rows, and beside it their keys."""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import numpy as np
import numpy.typing as npt

from mlclip.errors import CacheError

S = TypeVar("S")
_KEY_BYTES = 74  # 64 hex digits, a space, 8 hex digits and a newline


@dataclass(frozen=True)
class FeatureTable:
    """Rows of one shape and type, each with a key and a checksum, in two files named after the `kind` in a folder.

    A row counts when its key is complete on disk and its checksum right; of several with one key the last counts.
    """

    folder: Path
    kind: str
    shape: tuple[int, ...]
    dtype: type[np.float32] | type[np.float16]

    @property
    def row_bytes(self) -> int:
        """Size of a row."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers out of the folder, and turn errors of writing into CacheError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise CacheError(f"cannot use the features cache {self.folder}: {error}") from error

    def known(self, keys: Iterable[str]) -> dict[str, int]:
        """Key to row, of the given keys; call it `locked`.

        Rows without a key, and keys without a row, are truncated: an interrupted writer left them, or a file is lost.
        """
        lines = self._keys.read_bytes().splitlines(keepends=True) if self._keys.exists() else []
        whole = next((n for n, line in enumerate(lines) if len(line) != _KEY_BYTES), len(lines))
        count = min(self._count(), whole)
        for path, size in ((self._rows, count * self.row_bytes), (self._keys, count * _KEY_BYTES)):
            if path.exists() and path.stat().st_size > size:
                os.truncate(path, size)
        wanted, rows = frozenset(keys), self.open()
        named = ((row, line[:64].decode("ascii", "replace")) for row, line in enumerate(lines[:count]))
        return {key: row for row, key in named if key in wanted and lines[row][65:73] == _checksum(rows[row])}

    def append(
        self,
        sources: Mapping[str, S],
        encode: Callable[[Sequence[S]], npt.NDArray[np.float32]],
        batch_size: int,
        on_progress: Callable[[int, int], None],
    ) -> dict[str, int]:
        """Add a row for every key, `encode`d from its source in batches, and return key to row; call it `locked`.

        `encode` returns float32 [b, ...]; rows added before it raises stay. Batches on disk are reported.
        """
        todo, first = list(sources.items()), self._count()
        with self._rows.open("ab") as rows, self._keys.open("ab") as keys:
            for start in range(0, len(todo), batch_size):
                batch = todo[start : start + batch_size]
                made = encode([source for _, source in batch]).astype(self.dtype)
                rows.write(made.tobytes())
                rows.flush()
                os.fsync(rows.fileno())
                keys.writelines(
                    b"%b %b\n" % (key.encode(), _checksum(row)) for (key, _), row in zip(batch, made, strict=True)
                )
                keys.flush()
                on_progress(start + len(batch), len(todo))
        return {key: first + n for n, (key, _) in enumerate(todo)}

    def open(self) -> npt.NDArray[np.generic]:
        """Map all rows into memory: [*, ...]."""
        if not (count := self._count()):
            return np.empty((0, *self.shape), self.dtype)
        return np.memmap(self._rows, self.dtype, "r", shape=(count, *self.shape))

    def _count(self) -> int:
        return self._rows.stat().st_size // self.row_bytes if self._rows.exists() else 0

    @property
    def _rows(self) -> Path:
        return self.folder / f"{self.kind}.{'f32' if self.dtype is np.float32 else 'f16'}"

    @property
    def _keys(self) -> Path:
        return self.folder / f"{self.kind}.keys"


def _checksum(row: npt.NDArray[Any]) -> bytes:
    return b"%08x" % crc32(row.tobytes())
