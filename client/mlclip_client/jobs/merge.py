"""From the shards of a job to one file."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq  # type: ignore[import-untyped]

from mlclip_client.errors import ClientError
from mlclip_client.files import replacing
from mlclip_client.jobs.folder import Job
from mlclip_client.output.rows import null_embedding
from mlclip_client.output.writers import open_writer


def merge(folder: Path, out: str) -> None:
    """Write all rows of a job's finished shards into one file, in the order of its inputs.

    `out` is a .parquet or .jsonl path, or `-` for JSON lines on stdout. Raises ClientError if no shard is finished.
    """
    with Job(folder) as job:
        shards = job.done_shards()
        if not shards:
            raise ClientError(f"{folder} has no finished shard yet")
        tables, schema = map(job.read, shards), job.read(shards[0]).schema
        if Path(out).suffix.lower() == ".parquet":
            with replacing(Path(out)) as file, pq.ParquetWriter(file, schema) as writer:
                for table in tables:
                    writer.write_table(table)
            return
        with open_writer(out, schema) as write:
            for table in tables:
                for row in table.to_pylist():
                    write(null_embedding(row))
