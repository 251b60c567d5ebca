"""What a head must offer, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mlclip.encoders.features import Features
from mlclip.settings import UNTRAINED, TrainConfig

if TYPE_CHECKING:
    from mlclip.heads.growth import Growth


@dataclass(frozen=True)
class FeatureShapes:
    """Widths of an encoder's features; 0 where there are none.

    Attributes:
        embedding_width: D, of images and of texts.
        token_count: T.
        token_width: W.
        text_token_count: L, the text tower's context length.
        text_token_width: V, its width.
    """

    embedding_width: int
    token_count: int
    token_width: int
    text_token_count: int = 0
    text_token_width: int = 0


@dataclass(frozen=True)
class Examples:
    """Labelled images as a head sees them.

    Attributes:
        features: R rows of each of the head's inputs.
        targets: uint8 [R, N], 0 or 1.
        ids: R names of the images.
    """

    features: Features
    targets: npt.NDArray[np.uint8]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class LabelTexts:
    """The labels as words, and the text tower that reads them.

    Attributes:
        labels: N class names.
        encode: texts to float32 [len(texts), D], L2-normalised.
    """

    labels: tuple[str, ...]
    encode: Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Range:
    """Numbers to search: from `low` to `high`, both included; `log` spreads them evenly in the logarithm.

    Where the option is a list of numbers, `each` names the entry of the head's `config`, itself a list, that has as
    many items: `"weights": Range(0, 100, each="contexts")` is one weight a context.
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


class Head(nn.Module):
    """A torch module from features to one logit or score a class, that can say how to build it again.

    `forward` takes the features that `inputs` names, in that order, float32: `embedding` [B, D], `tokens` [B, T, W],
    `text_embedding` [B, D], `text_tokens` [B, L, V]; the last two are zeros for images without a text. It gives what
    `outputs` names: one tensor, or a tuple where there are several.

    A head's life: `build`, `prepare`, gradient steps as `defaults` say (none with `epochs=0`), `finish`.

    Attributes:
        name: the word people type, and its key in HEADS.
        defaults: settings of its training where none are given.
        search: what `mlclip tune` may vary: names of options, or `training.NAME` for settings of the training.
        inputs: the features it reads.
        outputs: first `logits` or `scores` (in [0, 1]), float32 [B, N]. A head that can name the references behind
            its answer adds `reference_index` int32 and `reference_weight` float32, both [B, R'], heaviest first,
            weight 0 where fewer than R' took part.
        config: keyword arguments that build this head again, plain JSON values; `classes` is N.
        reference_ids: names of the R images that the head keeps as references; empty where it keeps none.
        uses_text_tower: label texts are in its weights, or it reads texts; another text tower would not fit it.
        growth_rate: factor on a run's learning rate when it is extended: what is trained then alone takes larger steps.
        growth_note: why the scores of old classes may move when the head is `extended`; empty where they stay.
    """

    name: ClassVar[str]
    defaults: ClassVar[TrainConfig] = UNTRAINED
    search: ClassVar[Mapping[str, Range | Choice]] = {}
    growth_rate: ClassVar[float] = 1.0
    growth_note: ClassVar[str] = ""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = ("logits",)
    config: dict[str, Any]
    reference_ids: tuple[str, ...] = ()
    uses_text_tower: bool = False

    @classmethod
    def build(cls, classes: int, shapes: FeatureShapes, **options: Any) -> Self:
        """Build an untrained head for an encoder's feature widths.

        Raises:
            ValueError: an option is out of range, or the encoder lacks what the head reads.
            TypeError: the head has no such option.
        """
        raise NotImplementedError

    def prepare(self, train: Examples, validation: Examples, texts: LabelTexts, seed: int) -> None:
        """Take from the data, before any gradient step, what the head keeps: references, label texts, label sets."""

    def loss(self, features: Sequence[Tensor], targets: Tensor) -> Tensor | None:
        """The head's own loss, a scalar; None where the configured one of LOSSES, on its logits, applies.

        Args:
            features: float32, one tensor an input, [B, ...].
            targets: float32 [B, N].
        """
        return None

    def finish(self, validation: Examples) -> None:
        """Fit, after the last gradient step, what is fitted on validation images."""

    def extended(self, growth: Growth) -> Self:
        """This head with further classes behind its own; it stays as it is itself.

        Scores of its own classes stay equal up to rounding, but where `growth_note` says why not.

        Raises:
            ValueError: the method takes no further classes, and why.
        """
        raise ValueError(f"{self.name} takes no further classes: train a new head on all labels")

    def facts(self) -> dict[str, Any]:
        """What a run should record of how this head was made, plain JSON values by name."""
        return {}

    def reference_targets(self) -> Tensor:
        """Labels of the references, as zeros and ones: [R, N], in the order of `reference_ids`."""
        raise NotImplementedError


def first_output(head: Head, features: Sequence[Tensor]) -> Tensor:
    """A head's logits or scores, float32 [B, N], without what may come behind them."""
    output = head(*features)
    first: Tensor = output if isinstance(output, Tensor) else output[0]
    return first


def to_scores(head: Head, first: Tensor) -> Tensor:
    """Scores in [0, 1] from a head's first output: the sigmoid, where that is logits."""
    return first.sigmoid() if head.outputs[0] == "logits" else first


def batches(features: Features, size: int = 256) -> list[slice]:
    """Slices that walk over R rows."""
    return [slice(start, start + size) for start in range(0, len(features), size)]


def tensors(features: Features, index: npt.NDArray[np.int64] | slice) -> tuple[Tensor, ...]:
    """Some rows of every input as float32 tensors."""
    return tuple(torch.from_numpy(rows) for rows in features[index])
