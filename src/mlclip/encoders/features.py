"""The features cache: every image and text goes through an encoder once, for all heads and data sets.

A cache belongs to one encoder (its folder carries the fingerprint of weights and preprocessing) and is keyed by the
content of image files or texts, so a changed file is a new key, and a changed encoder a new folder. Each kind of
feature is an append-only pair of files: `embedding.f32` (float32 rows of D) with `embedding.keys` (per line a SHA-256
and the row's CRC-32), and, once a head needs them, `tokens.f16` (float16 rows of T x W) with `tokens.keys`. Texts have
the same, `text_embedding` and `text_tokens`, in a folder named after the text tower's fingerprint. A row counts when
its key is complete on disk, so an interrupted run resumes where it stopped, and when its checksum is right, so files
that do not belong together (copied in part, say) are computed again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from mlclip_client.pixels import ImageError, to_pixels

from mlclip.data.dataset import Progress, quiet
from mlclip.encoders import DEFAULT_CACHE
from mlclip.encoders.table import FeatureTable
from mlclip.errors import CacheError
from mlclip.files import read_file

if TYPE_CHECKING:
    from mlclip.encoders.clip import Encoder

TEXT_KINDS = ("text_embedding", "text_tokens")
S = TypeVar("S")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """Feature rows of some images, in their order, read from the memory-mapped cache when indexed.

    `store` is the whole cache file, float32 [*, D] or float16 [*, T, W]; `where`, int64 [R], has the row of image r.
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
    """What a head reads of R images: one table of rows per input, in the order of the head's inputs."""

    tables: tuple[Rows, ...]

    def __len__(self) -> int:
        return len(self.tables[0])

    def __getitem__(self, index: npt.NDArray[np.int64] | slice) -> tuple[npt.NDArray[np.float32], ...]:
        """Rows of each input as float32 [len(index), ...]."""
        return tuple(table[index] for table in self.tables)

    def take(self, rows: npt.NDArray[np.int64]) -> Features:
        """The features of some of the images."""
        return Features(tuple(Rows(table.store, table.where[rows]) for table in self.tables))


class FeatureCache:
    """The features of one encoder, on disk.

    `root` holds the caches of all encoders; `batch_size` is the number of images per encoder pass.
    """

    def __init__(self, encoder: Encoder, root: Path | str = DEFAULT_CACHE, *, batch_size: int = 64) -> None:
        self.encoder, self.root, self.batch_size = encoder, Path(root), batch_size
        self.folder = self.root / f"{encoder.tag}-{encoder.fingerprint}"

    def of(self, encoder: Encoder) -> FeatureCache:
        """The cache of another encoder beside this one."""
        return FeatureCache(encoder, self.root, batch_size=self.batch_size)

    def rows(self, paths: Sequence[Path], kind: str = "embedding", *, on_progress: Progress = quiet) -> Rows:
        """Features of R images; new images are encoded first and stay in the cache.

        `kind` is `embedding`, rows [D], or `tokens`, rows [T, W]. Progress is reported whenever a batch is on disk.
        Raises CacheError if an image cannot be read or decoded (earlier ones stay cached), if the encoder has no
        tokens, or if the cache folder is not writable.
        """
        table, keys = self._table(kind), [_content_key(path) for path in paths]
        return self._filled(table, "images", keys, paths, lambda batch: self._images(batch, kind), on_progress)

    def text_rows(
        self, texts: Sequence[str | None], kind: str = "text_embedding", *, on_progress: Progress = quiet
    ) -> Rows:
        """Features of R texts, like `rows` for images; None and blank texts have a row of zeros.

        `kind` is `text_embedding`, rows [D], or `text_tokens`, rows [L, V], zeros after a text's end.
        """
        given = [text if text and text.strip() else "" for text in texts]
        table, keys = self._table(kind), [hashlib.sha256(text.encode()).hexdigest() for text in given]
        return self._filled(table, "texts", keys, given, lambda batch: self._texts(batch, kind), on_progress)

    def _filled(
        self,
        table: FeatureTable,
        what: str,
        keys: Sequence[str],
        sources: Sequence[S],
        encode: Callable[[Sequence[S]], npt.NDArray[np.float32]],
        on_progress: Progress,
    ) -> Rows:
        """The rows of some keys; those that a table lacks are encoded first."""
        with table.locked():
            known = table.known(keys)
            missing = {key: source for key, source in zip(keys, sources, strict=True) if key not in known}
            if missing:
                count, size = len(missing), _human(len(missing) * table.row_bytes)
                _log.info(
                    "%s: %d %s with %s go to %s (%s)", table.kind, count, what, self.encoder.tag, table.folder, size
                )
                known |= table.append(missing, encode, self.batch_size, on_progress)
            store = table.open()
        return Rows(store, np.array([known[key] for key in keys], dtype=np.int64))

    def _table(self, kind: str) -> FeatureTable:
        encoder, folder = self.encoder, self.folder
        if kind in TEXT_KINDS:
            folder = self.root / f"{encoder.tag}-text-{encoder.text_fingerprint}"
        if kind in ("embedding", "text_embedding"):
            return FeatureTable(folder, kind, (encoder.embedding_width,), np.float32)
        of_texts = (encoder.text_token_count, encoder.text_token_width)
        shape = of_texts if kind == "text_tokens" else (encoder.token_count, encoder.token_width)
        if not shape[0]:
            raise CacheError(
                f"the encoder {encoder.name} gives no {kind.replace('_', ' ')}: choose a head that reads its embedding"
            )
        return FeatureTable(folder, kind, shape, np.float16)

    @torch.inference_mode()
    def _images(self, paths: Sequence[Path], kind: str) -> npt.NDArray[np.float32]:
        pixels = torch.from_numpy(np.stack([self._pixels(path) for path in paths]))
        embedding, tokens = self.encoder(pixels)
        chosen: torch.Tensor = embedding if kind == "embedding" else tokens
        return chosen.float().numpy()

    def _pixels(self, path: Path) -> npt.NDArray[np.uint8]:
        try:
            return to_pixels(read_file(path), self.encoder.spec)
        except ImageError as error:
            raise CacheError(f"{path}: {error}; remove it (`mlclip data` finds such files)") from error

    def _texts(self, texts: Sequence[str], kind: str) -> npt.NDArray[np.float32]:
        encoder = self.encoder
        made = encoder.encode_text(texts) if kind == "text_embedding" else encoder.encode_text_tokens(texts)[1]
        made[[not text for text in texts]] = 0
        return made.numpy()


def _content_key(path: Path) -> str:
    try:
        return hashlib.sha256(read_file(path)).hexdigest()
    except OSError as error:
        raise CacheError(f"cannot read the image {path}: {error.strerror}") from error


def _human(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
