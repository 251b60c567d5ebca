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
    """What is to be labelled, and how."""

    names: tuple[str, ...]  # of inputs, see `find_inputs`
    heads: tuple[str, ...] | None = None  # names; None: the only one that is served
    columns: RowOptions = field(default_factory=RowOptions)
    inputs: InputOptions = field(default_factory=InputOptions)
    limits: Limits = field(default_factory=Limits)
    texts: Path | None = None  # file with titles, see `Texts`
    known: Path | None = None  # list of hashes of files that are not asked about, see `read_known`
    shard_rows: int = 1000  # inputs per shard of a new job


@dataclass
class Summary:
    """What is reported at the end of a run."""

    tally: Tally = field(default_factory=Tally)  # of the rows of this run
    skipped: Skipped | None = None  # what the search for inputs skipped; None without a search
    texts: Texts | None = None
    interrupted: bool = False  # stopped by Ctrl-C or SIGTERM
    job: tuple[Tally, int] | None = None  # counts of all rows of the job, and its number of inputs; None without a job
