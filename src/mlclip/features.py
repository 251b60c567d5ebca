"""The features cache: every image goes through an encoder once, whichever heads and data sets use it.

A cache belongs to one encoder (its folder carries the fingerprint of weights and preprocessing) and is keyed by the
content of image files, so a changed file is a new key, and a changed encoder a new folder. Each kind of feature is an
append-only pair of files: `embedding.f32` (float32 rows of D) with `embedding.keys` (one SHA-256 a line), and, once
a head asks for them, `tokens.f16` (float16 rows of T x W) with `tokens.keys`. A row counts when its key is complete
on disk, so a killed run goes on where it was.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from mlclip_client.pixels import ImageError, to_pixels

from mlclip.encoders import Encoder
from mlclip.errors import CacheError

DEFAULT_CACHE = Path("features")
KINDS: dict[str, tuple[str, type[np.generic]]] = {"embedding": ("f32", np.float32), "tokens": ("f16", np.float16)}
_KEY_BYTES = 65  # 64 hex digits and a newline
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """Feature rows of some images, in their order, read from the memory-mapped cache when indexed.

    Attributes:
        store: float32 [*, D] or float16 [*, T, W]: the whole cache file.
        where: int64 [R]: which row belongs to image r.
    """

    store: npt.NDArray[np.generic]
    where: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, index: npt.NDArray[np.int64] | slice) -> npt.NDArray[np.float32]:
        """Rows as float32 [len(index), ...]."""
        rows: npt.NDArray[np.float32] = self.store[self.where[index]].astype(np.float32)
        return rows


@dataclass(frozen=True)
class Features:
    """What a head reads of R images: one table of rows an input, in the order of the head's inputs."""

    tables: tuple[Rows, ...]

    def __len__(self) -> int:
        return len(self.tables[0])

    def __getitem__(self, index: npt.NDArray[np.int64] | slice) -> tuple[npt.NDArray[np.float32], ...]:
        """Rows of each input as float32 [len(index), ...]."""
        return tuple(table[index] for table in self.tables)


class FeatureCache:
    """The features of one encoder, on disk.

    Args:
        encoder: fills the cache.
        root: folder that holds the caches of all encoders.
        batch_size: images an encoder pass.
    """

    def __init__(self, encoder: Encoder, root: Path = DEFAULT_CACHE, *, batch_size: int = 64) -> None:
        self.encoder, self.batch_size = encoder, batch_size
        self.folder = root / f"{encoder.tag}-{encoder.fingerprint}"

    def rows(
        self,
        paths: Sequence[Path],
        kind: str = "embedding",
        *,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Rows:
        """Features of images; what is missing is encoded first and stays in the cache.

        Args:
            paths: R image files.
            kind: `embedding` or `tokens`.
            on_progress: called with images done and images to do, whenever a batch is on disk.

        Returns:
            R rows: embedding [D] or tokens [T, W].

        Raises:
            CacheError: an image cannot be read or decoded (all that came before it stays cached), the encoder has
                no tokens, or the cache folder is not writable.
        """
        shape = self._shape(kind)
        keys = [_content_key(path) for path in paths]
        with self._locked():
            known = self._known(kind, shape)
            missing = {key: path for key, path in zip(keys, paths, strict=True) if key not in known}
            if missing:
                self._encode(missing, kind, shape, on_progress)
                known = self._known(kind, shape)
        dtype = KINDS[kind][1]
        count = len(known)
        store = (
            np.memmap(self._file(kind), dtype, "r", shape=(count, *shape)) if count else np.empty((0, *shape), dtype)
        )
        return Rows(store, np.array([known[key] for key in keys], dtype=np.int64))

    def _shape(self, kind: str) -> tuple[int, ...]:
        if kind == "embedding":
            return (self.encoder.embedding_width,)
        if not self.encoder.token_count:
            raise CacheError(f"the encoder {self.encoder.name} gives no tokens: choose a head that reads its embedding")
        return (self.encoder.token_count, self.encoder.token_width)

    def _file(self, kind: str) -> Path:
        return self.folder / f"{kind}.{KINDS[kind][0]}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise CacheError(f"cannot use the features cache {self.folder}: {error}") from error

    def _known(self, kind: str, shape: tuple[int, ...]) -> dict[str, int]:
        """Key to row, after cutting off what an interrupted writer left half done."""
        rows, keys = self._file(kind), self.folder / f"{kind}.keys"
        if not (rows.exists() and keys.exists()):
            return {}
        row_bytes = int(np.prod(shape)) * np.dtype(KINDS[kind][1]).itemsize
        count = min(rows.stat().st_size // row_bytes, keys.stat().st_size // _KEY_BYTES)
        for path, size in ((rows, count * row_bytes), (keys, count * _KEY_BYTES)):
            if path.stat().st_size > size:
                os.truncate(path, size)
        return {key: row for row, key in enumerate(keys.read_text().split())}

    def _encode(
        self, missing: dict[str, Path], kind: str, shape: tuple[int, ...], on_progress: Callable[[int, int], None]
    ) -> None:
        size = len(missing) * int(np.prod(shape)) * np.dtype(KINDS[kind][1]).itemsize
        _log.info(
            "%s: %d images with %s go to %s (%s)", kind, len(missing), self.encoder.tag, self.folder, _human(size)
        )
        todo = list(missing.items())
        with self._file(kind).open("ab") as rows, (self.folder / f"{kind}.keys").open("a") as keys:
            for start in range(0, len(todo), self.batch_size):
                batch = todo[start : start + self.batch_size]
                pixels = np.stack([self._pixels(path) for _, path in batch])
                rows.write(self._features(pixels, kind).astype(KINDS[kind][1]).tobytes())
                rows.flush()
                os.fsync(rows.fileno())
                keys.write("".join(f"{key}\n" for key, _ in batch))
                keys.flush()
                on_progress(start + len(batch), len(todo))

    def _pixels(self, path: Path) -> npt.NDArray[np.uint8]:
        try:
            return to_pixels(path.read_bytes(), self.encoder.spec)
        except ImageError as error:
            raise CacheError(f"{path}: {error}; take it out of the data (`mlclip data` finds such files)") from error

    @torch.inference_mode()
    def _features(self, pixels: npt.NDArray[np.uint8], kind: str) -> npt.NDArray[np.float32]:
        embedding, tokens = self.encoder(torch.from_numpy(pixels))
        chosen: torch.Tensor = embedding if kind == "embedding" else tokens
        features: npt.NDArray[np.float32] = chosen.float().numpy()
        return features


def _content_key(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CacheError(f"cannot read the image {path}: {error.strerror}") from error


def _human(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
