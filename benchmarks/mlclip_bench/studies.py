"""Which runs a study compares: names of variants, each with its recipe. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlclip.fit import Recipe
from mlclip.train import DEFAULTS

STUDIES: Mapping[str, Mapping[str, Recipe]] = {
    "heads": {
        "sigmoid": Recipe("sigmoid"),
        "mld": Recipe("mld"),
        "mld, no alignment": Recipe("mld", training=replace(DEFAULTS["mld"], alignment_weight=0.0)),
    },
}
"""`heads`: every head with its defaults, and whether ML-Decoder's alignment loss helps."""
