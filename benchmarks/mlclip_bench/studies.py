"""Which runs a study compares: names of variants, each with its recipe. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlclip.fit import Recipe
from mlclip.train import DEFAULTS


def _alignment(weight: float) -> Recipe:
    return Recipe("mld", training=replace(DEFAULTS["mld"], alignment_weight=weight))


STUDIES: Mapping[str, Mapping[str, Recipe]] = {
    "heads": {"sigmoid": Recipe("sigmoid"), "mld": Recipe("mld")},
    "alignment": {f"alignment weight {weight:g}": _alignment(weight) for weight in (0.0, 0.1, 1.0)},
}
"""`heads`: every head with its defaults. `alignment`: does ML-Decoder's alignment loss help?"""
