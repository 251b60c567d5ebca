"""Derive: from raw lines to images a second and ratios to the base, with intervals. Nothing is measured here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlclip.errors import ResultsError
from mlclip.json_lines import Line
from mlclip_bench.peers.raw import Raw

FILE = "peers.json"
RESAMPLES = 10_000
LEVEL = 0.95
UNSTABLE = 0.05
"""A ratio whose interval reaches further than this share of it to one side is called unstable."""

Floats = npt.NDArray[np.float64]


def derive(raw: Raw) -> dict[str, Any]:
    """Derive what the raw lines say, and write it to `peers.json`.

    Returns:
        `setting` as it was measured; `peers`: for each its title, state, errors, versions, agreement, rounds,
        `images_per_second` and `ratio` (median, low, high, stable), None where there is nothing to say.

    Raises:
        ResultsError: there are no raw lines, or none of a setting.
    """
    derived = derived_from(raw.lines())
    (raw.folder / FILE).write_text(json.dumps(derived, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return derived


def derived_from(lines: Sequence[Line]) -> dict[str, Any]:
    """Derive from lines; see `derive`."""
    setting = next((line for line in lines if line["kind"] == "setting"), None)
    if setting is None:
        raise ResultsError("the raw lines have no setting: measure again into another --out")
    rates = {
        name: {
            line["round"]: line["images"] / line["seconds"]
            for line in lines
            if line["kind"] == "time" and line["peer"] == name
        }
        for name in setting["peers"]
    }
    base = rates.get(setting["base"], {})
    peers = {
        name: {
            "title": peer["title"],
            "requirements": peer["requirements"],
            "rounds": len(rates[name]),
            "error": _last(lines, "failed", name, "error"),
            "failed_at": _last(lines, "failed", name, "stage"),
            "about": _last(lines, "ready", name, "about"),
            "load_seconds": _last(lines, "ready", name, "seconds"),
            "agreement": _agreement(lines, name),
            "images_per_second": _summary(list(rates[name].values())),
            "ratio": _summary([rate / base[number] for number, rate in rates[name].items() if number in base]),
        }
        for name, peer in setting["peers"].items()
    }
    return {"setting": {key: value for key, value in setting.items() if key != "kind"}, "peers": peers}


def median_interval(values: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the median: rounds are drawn again with replacement, ends are percentiles.

    Args:
        values: [R], one a round.
        resamples: how many.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(values, size=(resamples, len(values))), axis=1)
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _summary(values: Sequence[float]) -> dict[str, Any] | None:
    """Median with its interval; one round alone has no interval."""
    if not values:
        return None
    median = float(np.median(values))
    if len(values) == 1:
        return {"median": median, "low": None, "high": None, "stable": False}
    low, high = median_interval(np.array(values, dtype=np.float64))
    return {
        "median": median,
        "low": low,
        "high": high,
        "stable": bool(max(high - median, median - low) <= UNSTABLE * median),
    }


def _agreement(lines: Sequence[Line], name: str) -> Mapping[str, Any] | None:
    found = [line for line in lines if line["kind"] == "agreement" and line["peer"] == name]
    return {key: value for key, value in found[-1].items() if key not in ("kind", "peer")} if found else None


def _last(lines: Sequence[Line], kind: str, name: str, key: str) -> Any:
    found = [line[key] for line in lines if line["kind"] == kind and line["peer"] == name]
    return found[-1] if found else None
