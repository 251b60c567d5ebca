"""Near duplicates: pictures whose embeddings have a high cosine similarity."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.dataset as ds  # type: ignore[import-untyped]

from mlclip_client.wording import reason_of

Floats = npt.NDArray[np.float32]
_BLOCK = 1024


def first_alike(embeddings: Floats, cosine: float) -> npt.NDArray[np.int64]:
    """Find for each picture the row of the first one that it resembles, int64 [R]; its own row if there is none.

    Pictures with at least the cosine similarity are alike; embeddings are float32 [R, D], L2-normalised, and rows of
    NaN resemble nothing. Pictures are compared only with earlier ones that resemble no picture before them. So no chain
    of small steps joins two pictures that differ.
    """
    first = np.arange(len(embeddings))
    known = np.empty_like(embeddings)
    names = np.empty(len(embeddings), np.int64)
    count = 0
    for start in range(0, len(embeddings), _BLOCK):
        block = embeddings[start : start + _BLOCK]
        before = count
        best, score = _best(block, known[:before])
        for row, vector in enumerate(block):
            place, alike = best[row], score[row]
            if count > before:  # pictures of this block that resemble none before them
                within = known[before:count] @ vector
                if within.max() > alike:
                    place, alike = before + within.argmax(), within.max()
            if alike >= cosine:
                first[start + row] = names[place]
            elif not np.isnan(vector[0]):
                known[count], names[count] = vector, start + row
                count += 1
    return first


def read_embeddings(labels: Path) -> tuple[list[str], Floats]:
    """Read R paths and embeddings, float32 [R, D], of the rows in a Parquet file or a folder of them.

    Raises ValueError if there is no such file or folder, it is not Parquet, or its rows have no embeddings.
    """
    if not labels.is_file() and not labels.is_dir():
        what = "not a regular file" if labels.exists() else "no such file or folder"
        raise ValueError(f"{what}: {labels}; name what `classify --embeddings` wrote")
    try:
        dataset = ds.dataset(labels, format="parquet")
    except pa.ArrowInvalid as error:
        reason = "not Parquet: name a .parquet file, or a folder with only such files, such as a job's `labels`"
        raise ValueError(f"{labels}: {reason}") from error
    if not {"path", "embedding"} <= set(dataset.schema.names):
        raise ValueError(f"{labels} has no embeddings: classify with --embeddings")
    lists = dataset.schema.field("embedding").type
    width = lists.list_size if pa.types.is_fixed_size_list(lists) else 0
    try:
        table = dataset.to_table(["path", "embedding"])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{labels}: its embeddings cannot be read: {reason_of(error)}: classify again") from error
    if not width or table.column("embedding").null_count:
        raise ValueError(f"{labels}: its embeddings are not those that `classify --embeddings` writes: classify again")
    parts: Iterator[Floats] = (chunk.flatten().to_numpy() for chunk in table.column("embedding").chunks)
    return table.column("path").to_pylist(), np.concatenate([np.empty(0, np.float32), *parts]).reshape(-1, width)


def _best(block: Floats, known: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    """For each row of a block, the known row with the highest cosine, and that cosine; -1 if none is known."""
    if not len(known):
        return np.full(len(block), -1), np.full(len(block), -1, np.float32)
    scores = block @ known.T
    best = scores.argmax(axis=1)
    return best, scores[np.arange(len(block)), best]
