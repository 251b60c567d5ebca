"""Heads: what turns a frozen encoder's features into one logit a class.

A head is a torch module that follows the small `Head` protocol. `HEADS` maps the name that people type to its
class; everything else (training, export, serving) is driven by this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from mlclip.heads.mld import MLDecoder
from mlclip.heads.sigmoid import SigmoidHead


@dataclass(frozen=True)
class FeatureShapes:
    """Widths of an encoder's features: `embedding` [D] and `tokens` [T, W] (T = W = 0 where there are none)."""

    embedding_width: int
    token_count: int
    token_width: int


class Head(Protocol):
    """What a head must offer.

    Attributes:
        name: the word people type, and its key in HEADS.
        inputs: the features that `forward` takes, in order: `embedding` [B, D] and `tokens` [B, T, W].
        config: keyword arguments that build this head again; plain JSON values.
    """

    name: ClassVar[str]
    inputs: tuple[str, ...]
    config: dict[str, Any]

    def forward(self, *features: Tensor) -> Tensor:
        """Features, as `inputs` names them, to logits float32 [B, N]."""
        ...


HEADS: dict[str, type[nn.Module]] = {head.name: head for head in (SigmoidHead, MLDecoder)}


def build_head(name: str, classes: int, shapes: FeatureShapes, **options: Any) -> nn.Module:
    """Build an untrained head.

    Args:
        name: a key of HEADS.
        classes: N.
        shapes: widths of the encoder's features.
        options: the head's own options; see its class.

    Raises:
        ValueError: unknown head, an option out of range, or tokens asked of an encoder that has none.
    """
    if name not in HEADS:
        raise ValueError(f"unknown head {name!r}: choose one of {', '.join(HEADS)}")
    return HEADS[name].build(classes, shapes, **options)  # type: ignore[attr-defined, no-any-return]
