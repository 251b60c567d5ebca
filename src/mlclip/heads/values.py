"""What a head is given, and what it states about itself, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mlclip.encoders.features import Features

if TYPE_CHECKING:
    from mlclip.encoders.clip import Encoder

PROMPT = "a photo of a {}"
MOST_IMAGES = 5000
"""Most validation images that decide on a few numbers, evenly spaced."""


@dataclass(frozen=True)
class FeatureShapes:
    """D, T, W, L and V: widths of an encoder's embeddings, image tokens and text tokens (0 without)."""

    embedding_width: int
    token_count: int
    token_width: int
    text_token_count: int = 0
    text_token_width: int = 0

    @classmethod
    def of(cls, encoder: Encoder) -> Self:
        """The widths of an encoder."""
        return cls(**{field.name: getattr(encoder, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class Examples:
    """Labelled images as a head sees them: R rows of each of its inputs, targets uint8 [R, N], R names of images."""

    features: Features
    targets: npt.NDArray[np.uint8]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.targets)

    def at_most(self, images: int) -> Examples:
        """These images, or so many of them, evenly spaced."""
        if len(self) <= images:
            return self
        rows = np.linspace(0, len(self) - 1, images).astype(np.int64)
        return Examples(self.features.take(rows), self.targets[rows], tuple(self.ids[row] for row in rows))


@dataclass(frozen=True)
class LabelTexts:
    """N class names, and the text tower: `encode` maps texts to float32 [len(texts), D], L2-normalised."""

    labels: tuple[str, ...]
    encode: Callable[[Sequence[str]], Tensor]

    def embeddings(self) -> Tensor:
        """The labels' prompts as embeddings, float32 [N, D]."""
        return self.encode(label_prompts(self.labels))


def label_prompts(labels: Sequence[str]) -> list[str]:
    """The texts that stand for labels."""
    return [PROMPT.format(label) for label in labels]


@dataclass(frozen=True)
class Range:
    """Numbers to search: from `low` to `high`, both included; `log` spreads them evenly on a logarithmic scale.

    Where the option is a list of numbers, `each` names the list in the head's `config` that determines its length:
    `"weights": Range(0, 100, each="contexts")` is one weight per context.
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False
    each: str | None = None


@dataclass(frozen=True)
class Choice:
    """Values to search."""

    values: tuple[Any, ...]


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise ValueError for a value of an option that is not allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


@dataclass(frozen=True)
class PythonModel:
    """The Triton Python model of a head that cannot be a graph.

    `script` is the module of `mlclip_export.served` that becomes `model.py`; `files`, name to content, are stored
    beside it, and `parameters` in its config.
    """

    script: str
    files: dict[str, bytes]
    parameters: dict[str, str]
