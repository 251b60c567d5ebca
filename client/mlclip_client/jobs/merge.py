"""From the shards of a job to one file."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pyarrow.parquet as pq  # type: ignore[import-untyped]

from mlclip_client.errors import ClientError
from mlclip_client.jobs.folder import Job
from mlclip_client.output.rows import without_filling
from mlclip_client.output.writers import open_writer, replacing


def merge(folder: Path, out: str) -> None:
    """Write all rows of a job's finished shards into one file, in the order of its inputs.

    Args:
        folder: of the job.
        out: a .parquet or .jsonl path, or `-` for JSON lines on stdout.

    Raises:
        ClientError: no shard is finished.
    """
    with Job(folder) as job:
        tables = job.tables()
        first = next(tables, None)
        if first is None:
            raise ClientError(f"{folder} has no finished shard yet")
        tables = chain([first], tables)
        if Path(out).suffix == ".parquet":
            with replacing(Path(out)) as temporary, pq.ParquetWriter(temporary, first.schema) as writer:
                for table in tables:
                    writer.write_table(table)
            return
        with open_writer(out, first.schema) as write:
            for table in tables:
                for row in table.to_pylist():
                    write(without_filling(row))
