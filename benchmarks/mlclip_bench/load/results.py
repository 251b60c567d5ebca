"""The raw lines of a measurement of load, one per level; of several for one level, the last counts."""

from __future__ import annotations

from mlclip.json_lines import Line
from mlclip_bench.kit.store import Store
from mlclip_bench.load.define import Closed, Load

Key = tuple[str, float]


def key_of(load: Load) -> Key:
    """What identifies a level: `closed` or `open`, and the concurrency or the rate."""
    return ("closed", load.concurrency) if isinstance(load, Closed) else ("open", load.rate)


class Results(Store):
    """The raw lines of one folder."""

    file = "load.jsonl"

    @staticmethod
    def key(line: Line) -> Key:
        """See `key_of`."""
        return line["mode"], line["level"]

    def check(self, setting: Line) -> None:
        """Refuse to continue levels that were measured with another setting."""
        self.check_same(setting, (line["setting"] for line in self.lines()))
