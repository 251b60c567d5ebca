"""Heads turn a frozen encoder's features into one logit or score per class.

`HEADS` maps the name that people type to a subclass of `Head`. Training, export and serving know heads from this table
only: a new head is one file and one entry here.
"""

from typing import Any

from mlclip.errors import TrainError
from mlclip.heads.base import Growth, Head
from mlclip.heads.blend import Blend
from mlclip.heads.classnet import ClassNet
from mlclip.heads.fusion import FusionHead
from mlclip.heads.knn1 import NearestNeighbor
from mlclip.heads.mld import MLDecoder
from mlclip.heads.neighbornet import NeighborNet
from mlclip.heads.neighbors import NeighborSearch
from mlclip.heads.powerset import PowersetHead
from mlclip.heads.siglip import SiglipHead
from mlclip.heads.sigmoid import SigmoidHead
from mlclip.heads.tip import TipAdapter
from mlclip.heads.values import Choice, Examples, FeatureShapes, LabelTexts, PythonModel, Range
from mlclip.heads.zeroshot import ZeroShot

__all__ = [
    "HEADS",
    "Choice",
    "Examples",
    "FeatureShapes",
    "Growth",
    "Head",
    "LabelTexts",
    "PythonModel",
    "Range",
    "build_head",
    "find_head",
]

_HEADS: tuple[type[Head], ...] = (
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
    Blend,
)
HEADS: dict[str, type[Head]] = {head.name: head for head in _HEADS}


def find_head(name: str) -> type[Head]:
    """The head of a name; raises TrainError."""
    if name not in tuple(HEADS):
        raise TrainError(f"unknown head {name!r}: choose one of {', '.join(HEADS)}")
    return HEADS[name]


def build_head(name: str, classes: int, shapes: FeatureShapes, **options: Any) -> Head:
    """Build an untrained head of HEADS for N classes; raises TrainError if there is none, and as `Head.build`."""
    return find_head(name).build(classes, shapes, **options)
