"""Heads: what turns a frozen encoder's features into one logit or score a class.

`HEADS` maps the name that people type to a class that follows `Head`; everything else (training, export, serving) is
driven by this table.
"""

from __future__ import annotations

from typing import Any

from mlclip.heads.base import Choice, Examples, FeatureShapes, Head, LabelTexts, Range
from mlclip.heads.classnet import ClassNet
from mlclip.heads.fusion import FusionHead
from mlclip.heads.growth import Growth
from mlclip.heads.knn1 import NearestNeighbor
from mlclip.heads.mld import MLDecoder
from mlclip.heads.neighbornet import NeighborNet
from mlclip.heads.neighbors import NeighborSearch
from mlclip.heads.powerset import PowersetHead
from mlclip.heads.siglip import SiglipHead
from mlclip.heads.sigmoid import SigmoidHead
from mlclip.heads.tip import TipAdapter
from mlclip.heads.zeroshot import ZeroShot

__all__ = [
    "HEADS",
    "Choice",
    "ClassNet",
    "Examples",
    "FeatureShapes",
    "FusionHead",
    "Growth",
    "Head",
    "LabelTexts",
    "MLDecoder",
    "NearestNeighbor",
    "NeighborNet",
    "NeighborSearch",
    "PowersetHead",
    "Range",
    "SiglipHead",
    "SigmoidHead",
    "TipAdapter",
    "ZeroShot",
    "build_head",
]

METHODS: tuple[type[Head], ...] = (
    SigmoidHead,
    MLDecoder,
    PowersetHead,
    SiglipHead,
    ZeroShot,
    NearestNeighbor,
    NeighborSearch,
    NeighborNet,
    ClassNet,
    TipAdapter,
    FusionHead,
)
HEADS: dict[str, type[Head]] = {head.name: head for head in METHODS}


def build_head(name: str, classes: int, shapes: FeatureShapes, **options: Any) -> Head:
    """Build an untrained head.

    Args:
        name: a key of HEADS.
        classes: N.
        shapes: widths of the encoder's features.
        options: the head's own options; see its class.

    Raises:
        ValueError: unknown head, an option out of range, or tokens asked of an encoder that has none.
        TypeError: the head has no such option.
    """
    if name not in HEADS:
        raise ValueError(f"unknown head {name!r}: choose one of {', '.join(HEADS)}")
    return HEADS[name].build(classes, shapes, **options)
