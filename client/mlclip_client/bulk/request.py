"""What the bulk tool is asked to do, and what it reports at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlclip_client.options import InputOptions, Limits, RowOptions
from mlclip_client.output.tally import Tally

if TYPE_CHECKING:
    from mlclip_client.inputs import Skipped
    from mlclip_client.inputs.texts import Texts


@dataclass(frozen=True)
class Request:
    """What is to be labelled, and how.

    Attributes:
        names: of inputs, see `find_inputs`.
        heads: names; None: the only one that is served.
        texts: file with titles, see `Texts`.
        known: list of hashes of files that are not asked about, see `read_known`.
        shard_rows: inputs per shard of a new job.
    """

    names: tuple[str, ...]
    heads: tuple[str, ...] | None = None
    columns: RowOptions = field(default_factory=RowOptions)
    inputs: InputOptions = field(default_factory=InputOptions)
    limits: Limits = field(default_factory=Limits)
    texts: Path | None = None
    known: Path | None = None
    shard_rows: int = 1000


@dataclass
class Summary:
    """What is reported at the end of a run.

    Attributes:
        tally: of the rows of this run.
        skipped: what the search for inputs skipped; None without a search.
        interrupted: stopped by Ctrl-C or SIGTERM.
        job: counts of all rows of the job, and its number of inputs; None without a job.
    """

    tally: Tally = field(default_factory=Tally)
    skipped: Skipped | None = None
    texts: Texts | None = None
    interrupted: bool = False
    job: tuple[Tally, int] | None = None
