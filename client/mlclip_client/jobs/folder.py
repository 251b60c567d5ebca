"""The folder of a job: what was asked, what is planned, what is done."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from mlclip_client.errors import JobError, WrongJob
from mlclip_client.inputs.item import Item
from mlclip_client.jobs.claims import Claims
from mlclip_client.jobs.plan import Plan, write_plan
from mlclip_client.output.rows import Row, with_vectors
from mlclip_client.output.writers import replacing

FORMAT = 2
_COUNTS = b"mlclip_counts"


@dataclass(frozen=True)
class Counts:
    """What came of some inputs.

    Attributes:
        rows: how many.
        errors: kind -> how many of them have an error of it.
    """

    rows: int = 0
    errors: Mapping[str, int] | None = None

    @property
    def failed(self) -> int:
        """How many have an error."""
        return sum((self.errors or {}).values())


class Job:
    """A job's folder; use it with `with`, or close it.

    Args:
        folder: of the job.
        new: it may still have to begin; then the folder is made.

    Raises:
        WrongJob: the folder holds something else or, unless new, no job.
        JobError: it cannot be written.
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
        """What was asked when the job began, plain JSON values; None where it has not begun.

        Raises:
            JobError: it cannot be read, or was written by a later mlclip.
        """
        try:
            text = (self.folder / "job.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            found: dict[str, Any] = json.loads(text)
            if found.pop("format") != FORMAT:
                raise JobError(f"{self.folder} was begun with another mlclip-client; go on with that one")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise JobError(f"{self.folder}/job.json is broken: {error}; begin a new job") from error
        return found

    def begin(
        self,
        asked: Mapping[str, Any],
        items: Callable[[], Iterable[Item]],
        shard_rows: int,
        on_shard: Callable[[int], None],
    ) -> None:
        """Plan the job, unless that has been done: then what is asked must be the same.

        Args:
            asked: everything that rows depend on, plain JSON values, and `options`, which may differ.
            items: gives all inputs; called only for a new job.
            shard_rows: inputs a shard.
            on_shard: see `write_plan`.

        Raises:
            WrongJob: the folder holds a job in which something else was asked.
            JobError: there are no inputs.
        """
        self.claims.take_whole()
        try:
            known = self.asked
            if known is None:
                if not write_plan(items(), self.folder / "plan.parquet", shard_rows, on_shard):
                    raise JobError("there are no inputs")
                with replacing(self.folder / "job.json") as temporary:
                    text = json.dumps({"format": FORMAT, **asked}, indent=1, ensure_ascii=False)
                    temporary.write_text(text + "\n", encoding="utf-8", errors="surrogateescape")
            else:
                _same(self.folder, known, json.loads(json.dumps(asked)))
        finally:
            self.claims.free_whole()

    @property
    def plan(self) -> Plan:
        """The inputs of a job that has begun."""
        if self._plan is None:
            self._plan = Plan(self.folder / "plan.parquet")
        return self._plan

    def shard_file(self, shard: int) -> Path:
        """Where a shard's rows are once it is done."""
        return self.folder / "labels" / f"{shard:06}.parquet"

    def done_shards(self) -> list[int]:
        """Shards that are done, in order."""
        return [shard for shard in range(self.plan.shards) if self.shard_file(shard).exists()]

    def write(self, shard: int, rows: Sequence[Row], schema: pa.Schema) -> Counts:
        """Write the rows of a shard, and say what came of them; the file appears whole or not at all."""
        counts = Counts(len(rows), dict(Counter(row["error_kind"] for row in rows if row["error_kind"])))
        metadata = (schema.metadata or {}) | {_COUNTS: json.dumps(asdict(counts)).encode()}
        table = pa.Table.from_pylist(with_vectors(rows, schema), schema=schema.with_metadata(metadata))
        with replacing(self.shard_file(shard)) as temporary:
            pq.write_table(table, temporary)
        return counts

    def sweep(self, shard: int) -> None:
        """Remove what a worker that was killed has left of a shard; only for whoever has the claim."""
        file = self.shard_file(shard)
        for left in file.parent.glob(f".{file.name}.*.tmp"):
            left.unlink()

    def read(self, shard: int) -> pa.Table:
        """The rows of a shard that is done; the schema's metadata holds the classes of the heads."""
        table = pq.read_table(self.shard_file(shard), partitioning=None)
        metadata = {key: value for key, value in table.schema.metadata.items() if key != _COUNTS}
        return table.replace_schema_metadata(metadata)

    def counts(self, shard: int) -> Counts:
        """What came of a shard that is done; reads its footer only."""
        return Counts(**json.loads(pq.read_schema(self.shard_file(shard)).metadata[_COUNTS]))

    def total(self) -> Counts:
        """What came of all shards that are done."""
        total: Counter[str] = Counter()
        rows = 0
        for shard in self.done_shards():
            counts = self.counts(shard)
            rows += counts.rows
            total.update(counts.errors or {})
        return Counts(rows, total)

    def tables(self) -> Iterator[pa.Table]:
        """The rows of all shards that are done, in order."""
        return (self.read(shard) for shard in self.done_shards())

    def close(self) -> None:
        """Give all claims back."""
        if self._plan is not None:
            self._plan.close()
        self.claims.close()

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _same(folder: Path, known: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    if known.get("folder") != asked["folder"]:
        raise WrongJob(
            f"{folder} was begun in {known.get('folder')}, where names of inputs may mean other files: go on there, or "
            f"with --job {folder} alone"
        )
    known, asked = ({**value, "heads": list(value["heads"])} for value in (known, asked))  # their versions are pinned
    for name in asked:
        if name != "options" and known.get(name) != asked[name]:
            was, now = (json.dumps(value.get(name), ensure_ascii=False) for value in (known, asked))
            raise WrongJob(
                f"{folder} holds a job with {name} {_short(was)}, now {_short(now)} was asked: ask for the same, or "
                "begin a new job in another folder"
            )


def _short(text: str) -> str:
    return text if len(text) < 120 else f"{text[:117]}..."
