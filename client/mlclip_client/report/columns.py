"""A labels file as columns: what the page shows of every image."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from mlclip_client.report import rows
from mlclip_client.report.answers import HeadCollector, HeadScores
from mlclip_client.report.neighbours import Embeddings, Floats

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """All that the rows say; None for a column that they do not have."""

    paths: list[str | None]  # as in the rows; None for images from memory
    kinds: list[str | None]  # of the errors, None where there is none; so are `messages`
    messages: list[str | None]
    hashes: list[str | None] | None  # sha256 in hex
    sizes: Numbers | None  # bytes of the file, NaN where unknown
    seconds: Numbers | None  # time per image, NaN where unknown
    heads: dict[str, HeadScores]
    embeddings: Floats | None  # float32 [rows, D], NaN where an image has none
    embeddings_skipped: bool  # whether there are too many embeddings, or of different lengths
    more: bool  # whether the file has more rows than these

    def __len__(self) -> int:
        return len(self.paths)


def read_columns(source: Path, limit: int) -> Columns:
    """Read the first `limit` rows of a labels file, see `read_batches`; raises ValueError if it has none."""
    texts: dict[str, list[str | None]] = {name: [] for name in ("path", "error_kind", "error", "sha256")}
    numbers: dict[str, list[Numbers]] = {name: [] for name in ("bytes", "seconds")}
    heads: dict[str, HeadCollector] = {}
    embeddings = Embeddings()
    count, more = 0, False
    for batch, classes in rows.read_batches(source):
        more = count + len(batch) > limit
        batch = batch[: limit - count]
        for name, column in texts.items():
            column += rows.field(batch, name, pa.string()).to_pylist()
        for name, chunks in numbers.items():
            chunks.append(rows.field(batch, name, pa.float64()).to_numpy(zero_copy_only=False))
        for name, answers in _answers(batch):
            try:
                heads.setdefault(name, HeadCollector(classes.get(name))).add(answers, count)
            except (ValueError, pa.ArrowException) as error:
                raise ValueError(f"{source}, after row {count:,}, head {name}: {error}") from error
        embeddings.add(rows.field(batch, "embedding", rows.NUMBERS), count)
        count += len(batch)
        if more:
            break
    if not count:
        raise ValueError(f"{source}: there is no row in it")
    return Columns(
        paths=texts["path"],
        kinds=texts["error_kind"],
        messages=texts["error"],
        hashes=texts["sha256"] if any(texts["sha256"]) else None,
        sizes=_if_any(numbers["bytes"]),
        seconds=_if_any(numbers["seconds"]),
        heads={name: head.finish(count) for name, head in heads.items()},
        embeddings=embeddings.finish(count),
        embeddings_skipped=embeddings.skipped,
        more=more,
    )


def _answers(batch: pa.StructArray) -> Iterator[tuple[str, pa.StructArray]]:
    heads = rows.field(batch, "answers")
    for number in range(heads.type.num_fields):
        name = heads.type.field(number).name
        if pa.types.is_struct((answers := rows.field(heads, name)).type):
            yield name, answers


def _if_any(chunks: list[Numbers]) -> Numbers | None:
    whole = np.concatenate(chunks)
    return None if np.isnan(whole).all() else whole
