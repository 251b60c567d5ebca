"""The folder of a job: what was requested, what is planned, what is finished."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from mlclip_client.errors import ClientError, JobError, WrongJob
from mlclip_client.files import replacing
from mlclip_client.inputs.item import Item
from mlclip_client.jobs.claims import Claims
from mlclip_client.jobs.plan import Plan, write_plan
from mlclip_client.output.rows import Row, fill_embeddings, null_embedding
from mlclip_client.output.tally import Tally
from mlclip_client.output.writers import open_writer
from mlclip_client.wording import shortened

FORMAT = 3
_COUNTS = b"mlclip_counts"


class Job(AbstractContextManager["Job"]):
    """A job's folder; use it with `with`. If `new`, the job may not have begun yet; then the folder is created.

    Raises WrongJob if the folder holds something else or, unless new, no job; JobError if it cannot be written.
    """

    def __init__(self, folder: Path, *, new: bool = False) -> None:
        self.folder = folder
        if not new and not (folder / "job.json").exists():
            raise WrongJob(f"{folder} holds no job: classify PATHS --job {folder} begins one")
        if folder.is_dir() and not (folder / "claims").exists() and any(folder.iterdir()):
            raise WrongJob(f"{folder} holds something that is no job; name another folder")
        try:
            (folder / "labels").mkdir(parents=True, exist_ok=True)
            self.claims = Claims(folder / "claims")
        except OSError as error:
            raise JobError(f"{folder}: {error.strerror}; name another folder") from error
        self._plan: Plan | None = None

    @property
    def asked(self) -> dict[str, Any] | None:
        """What was requested when the job began, as plain JSON values; None if it has not begun."""
        try:
            text = (self.folder / "job.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            asked: dict[str, Any] = json.loads(text)
            if asked.pop("format") != FORMAT:
                raise JobError(f"{self.folder} was begun with another mlclip-client; go on with that one")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise JobError(f"{self.folder}/job.json is broken: {error}; begin a new job") from error
        return asked

    def begin(
        self,
        asked: Mapping[str, Any],
        items: Callable[[], Iterable[Item]],
        shard_rows: int,
        on_shard: Callable[[int], None],
    ) -> None:
        """Plan the job; if it has been planned already, the same must be requested, or WrongJob is raised.

        What was asked is everything that rows depend on, as plain JSON values, and `options`, which may differ. Only a
        new job takes the items; raises JobError if there are none. `on_shard` as in `write_plan`.
        """
        with self.claims.planning():
            known = self.asked
            if known is not None:
                _check_same(self.folder, known, json.loads(json.dumps(asked)))
                return
            if not write_plan(items(), self.folder / "plan.parquet", shard_rows, on_shard):
                raise JobError("there are no inputs")
            text = json.dumps({"format": FORMAT, **asked}, indent=1, ensure_ascii=False) + "\n"
            with replacing(self.folder / "job.json") as file:
                file.write(text.encode("utf-8", "surrogateescape"))

    @property
    def plan(self) -> Plan:
        """The inputs of a job that has begun."""
        if self._plan is None:
            self._plan = Plan(self.folder / "plan.parquet")
        return self._plan

    def shard_file(self, shard: int) -> Path:
        """The file of a shard's rows; it exists if the shard is finished."""
        return self.folder / "labels" / f"{shard:06}.parquet"

    def done_shards(self) -> list[int]:
        """All finished shards, in order."""
        return [shard for shard in range(self.plan.shards) if self.shard_file(shard).exists()]

    def write(self, shard: int, rows: Sequence[Row], schema: pa.Schema) -> Tally:
        """Write all rows of a shard and give their counts; the file appears only when it is complete."""
        counts = Tally.of(rows)
        metadata = (schema.metadata or {}) | {_COUNTS: json.dumps(counts.to_json()).encode()}
        table = pa.Table.from_pylist(fill_embeddings(rows, schema), schema=schema.with_metadata(metadata))
        with replacing(self.shard_file(shard)) as file:
            pq.write_table(table, file)
        return counts

    def sweep(self, shard: int) -> None:
        """Remove temporary files that a killed worker left of a shard; the caller must have the claim."""
        file = self.shard_file(shard)
        for left in file.parent.glob(f".{file.name}.*.tmp"):
            left.unlink()

    def read(self, shard: int) -> pa.Table:
        """The rows of a finished shard; the schema's metadata holds the classes of the heads."""
        table = pq.read_table(self.shard_file(shard), partitioning=None)
        metadata = {key: value for key, value in table.schema.metadata.items() if key != _COUNTS}
        return table.replace_schema_metadata(metadata)

    def counts(self, shard: int) -> Tally:
        """The counts of a finished shard, from its footer."""
        return Tally.from_json(json.loads(pq.read_schema(self.shard_file(shard)).metadata[_COUNTS]))

    def total(self) -> Tally:
        """The counts of all finished shards."""
        total = Tally()
        for shard in self.done_shards():
            total.add(self.counts(shard))
        return total

    def __exit__(self, *_: object) -> None:
        if self._plan is not None:
            self._plan.close()
        self.claims.close()


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


def _check_same(folder: Path, known: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    if known.get("folder") != asked["folder"]:
        raise WrongJob(
            f"{folder} was begun in {known.get('folder')}, where names of inputs may mean other files: go on there, or "
            f"with --job {folder} alone"
        )
    known, asked = ({**each, "heads": list(each["heads"])} for each in (known, asked))  # pins are checked elsewhere
    for name in asked:
        if name != "options" and known.get(name) != asked[name]:
            was, now = (shortened(json.dumps(each.get(name), ensure_ascii=False)) for each in (known, asked))
            raise WrongJob(
                f"{folder} holds a job with {name} {was}, now {now} was asked: ask for the same, or begin a new job in "
                "another folder"
            )
