"""From raw lines to images per second and ratios to the base, with intervals. Nothing is measured here."""

from collections.abc import Sequence
from typing import Any

from mlclip.json_lines import Line
from mlclip_bench.kit.files import write_json
from mlclip_bench.kit.intervals import median
from mlclip_bench.kit.store import Store

FILE = "peers.json"
UNSTABLE = 0.05  # a ratio is unstable if its interval reaches further than this share of it to one side


class Results(Store):
    """The raw lines of one folder, in the order of events.

    Kinds of lines: `setting` (once, first), `ready` and `failed` (about a peer), `agreement` (a peer's vectors against
    the base's) and `time` (one peer's seconds in one round).
    """

    file = "peers.jsonl"


def derive(results: Results) -> dict[str, Any]:
    """Derive all values from the raw lines, and write them to `peers.json`; raises ResultsError without any.

    They are the `setting` as it was measured, and for each of the `peers` its title, errors, versions, agreement,
    rounds, `images_per_second` and `ratio` (median, low, high, stable), None where nothing was measured.
    """
    derived = derived_from(results.setting(), results.lines())
    write_json(results.folder / FILE, derived, indent=2)
    return derived


def derived_from(setting: Line, lines: Sequence[Line]) -> dict[str, Any]:
    """Derive from lines; see `derive`."""
    rates = {
        name: {
            line["round"]: line["images"] / line["seconds"]
            for line in lines
            if line["kind"] == "time" and line["peer"] == name
        }
        for name in setting["peers"]
    }
    base = rates.get(setting["base"], {})
    last = {(line["kind"], line.get("peer")): line for line in lines}
    peers = {}
    for name, peer in setting["peers"].items():
        failed, ready = last.get(("failed", name), {}), last.get(("ready", name), {})
        agreement = last.get(("agreement", name), {})
        peers[name] = {
            "title": peer["title"],
            "requirements": peer["requirements"],
            "rounds": len(rates[name]),
            "error": failed.get("error"),
            "failed_at": failed.get("stage"),
            "about": ready.get("about"),
            "load_seconds": ready.get("seconds"),
            "agreement": {key: value for key, value in agreement.items() if key not in ("kind", "peer")} or None,
            "images_per_second": _summary(list(rates[name].values())),
            "ratio": _summary([rate / base[number] for number, rate in rates[name].items() if number in base]),
        }
    return {"setting": {key: value for key, value in setting.items() if key != "kind"}, "peers": peers}


def _summary(values: Sequence[float]) -> dict[str, Any] | None:
    """Median with its interval; a single round has no interval."""
    if not values:
        return None
    found = median(values)
    stable = max(found.high - found.value, found.value - found.low) <= UNSTABLE * found.value
    plain = found.to_dict()
    return {"median": plain["value"], "low": plain["low"], "high": plain["high"], "stable": stable}
