"""Heads: what turns a frozen encoder's features into one logit a class.

`HEADS` maps the name that people type to a class that follows `Head`; everything else (training, export, serving) is
driven by this table.
"""

from __future__ import annotations

from typing import Any

from mlclip.heads.base import FeatureShapes, Head
from mlclip.heads.mld import MLDecoder
from mlclip.heads.sigmoid import SigmoidHead

__all__ = ["HEADS", "FeatureShapes", "Head", "MLDecoder", "SigmoidHead", "build_head"]

HEADS: dict[str, type[Head]] = {head.name: head for head in (SigmoidHead, MLDecoder)}


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
