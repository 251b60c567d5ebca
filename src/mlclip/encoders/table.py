"""One kind of feature on disk: an append-only file of rows, and beside it their keys."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mlclip.errors import CacheError

S = TypeVar("S")
_KEY_BYTES = 65  # 64 hex digits and a newline


@dataclass(frozen=True)
class FeatureTable:
    """Rows of one shape and type, each with a key, in two files named after the `kind` in a folder.

    A row counts when its key is complete on disk.
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

    def known(self) -> dict[str, int]:
        """Key to row, after truncating the incomplete rows of an interrupted writer; call it `locked`."""
        if not (self._rows.exists() and self._keys.exists()):
            return {}
        count = min(self._rows.stat().st_size // self.row_bytes, self._keys.stat().st_size // _KEY_BYTES)
        for path, size in ((self._rows, count * self.row_bytes), (self._keys, count * _KEY_BYTES)):
            if path.stat().st_size > size:
                os.truncate(path, size)
        return {key: row for row, key in enumerate(self._keys.read_text().split())}

    def append(
        self,
        sources: Mapping[str, S],
        encode: Callable[[Sequence[S]], npt.NDArray[np.float32]],
        batch_size: int,
        on_progress: Callable[[int, int], None],
    ) -> None:
        """Add a row for every key, `encode`d from its source in batches; call it `locked`.

        `encode` returns float32 [b, ...]; rows added before it raises stay. Batches on disk are reported.
        """
        todo = list(sources.items())
        with self._rows.open("ab") as rows, self._keys.open("a") as keys:
            for start in range(0, len(todo), batch_size):
                batch = todo[start : start + batch_size]
                rows.write(encode([source for _, source in batch]).astype(self.dtype).tobytes())
                rows.flush()
                os.fsync(rows.fileno())
                keys.write("".join(f"{key}\n" for key, _ in batch))
                keys.flush()
                on_progress(start + len(batch), len(todo))

    def open(self, count: int) -> npt.NDArray[np.generic]:
        """Map the first `count` rows into memory: [count, ...]."""
        if not count:
            return np.empty((0, *self.shape), self.dtype)
        return np.memmap(self._rows, self.dtype, "r", shape=(count, *self.shape))

    @property
    def _rows(self) -> Path:
        return self.folder / f"{self.kind}.{'f32' if self.dtype is np.float32 else 'f16'}"

    @property
    def _keys(self) -> Path:
        return self.folder / f"{self.kind}.keys"
