"""What a head must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn


@dataclass(frozen=True)
class FeatureShapes:
    """Widths of an encoder's features: `embedding` [D] and `tokens` [T, W] (T = W = 0 where there are none)."""

    embedding_width: int
    token_count: int
    token_width: int


class Head(nn.Module):
    """A torch module from features to logits float32 [B, N], that can say how to build it again.

    `forward` takes the features that `inputs` names, in that order: `embedding` [B, D], `tokens` [B, T, W].

    Attributes:
        name: the word people type, and its key in HEADS.
        inputs: the features it reads.
        config: keyword arguments that build this head again, plain JSON values; `classes` is N.
    """

    name: ClassVar[str]
    inputs: tuple[str, ...]
    config: dict[str, Any]

    @classmethod
    def build(cls, classes: int, shapes: FeatureShapes, **options: Any) -> Self:
        """Build an untrained head for an encoder's feature widths.

        Raises:
            ValueError: an option is out of range, or the encoder lacks what the head reads.
            TypeError: the head has no such option.
        """
        raise NotImplementedError
