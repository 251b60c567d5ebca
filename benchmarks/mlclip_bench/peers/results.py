"""The raw lines of a measurement of peers, in the order of events.

Kinds of lines: `setting` (once, first), `ready` and `failed` (about a peer), `agreement` (a peer's vectors against the
base's) and `time` (one peer's seconds in one round).
"""

from __future__ import annotations

from mlclip_bench.kit.store import Store


class Results(Store):
    """The raw lines of one folder."""

    file = "peers.jsonl"
