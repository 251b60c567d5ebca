"""The interface of heads: all that training, evaluation, extension and export use of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mlclip.encoders.features import Features
from mlclip.heads.values import Choice, Examples, FeatureShapes, LabelTexts, PythonModel, Range
from mlclip.settings import UNTRAINED, TrainConfig


class Head(nn.Module):
    """A torch module from features to one logit or score per class, which can describe how to build it again.

    Every head is built with `classes`, N, and most with `width`, D. `forward` takes the features that `inputs` names,
    in that order, float32: `embedding` [B, D], `tokens` [B, T, W], `text_embedding` [B, D], `text_tokens` [B, L, V];
    the last two are zeros for images without a text. It returns what `outputs` names: a tensor, or a tuple of several.

    A head's life: `build`, `prepare`, gradient steps with the settings in `defaults` (none with `epochs=0`), `finish`.

    Attributes:
        name: the word people type, and its key in HEADS.
        source: publications; a number such as `000` is one of `presets.DOCUMENTS`, followed by its section.
        defaults: settings of its training unless others are given.
        search: what `mlclip tune` may vary: names of options, or `training.NAME` for settings of the training.
        growth_rate: factor on a run's learning rate when it is extended, since few parameters take larger steps.
        growth_note: why the scores of old classes may change when the head is `extended`; empty where they stay.
        trains_encoder: training moves both towers of the encoder too, so the run has an encoder of its own.
        uses_text_tower: label texts are in its weights, or it reads texts; it does not fit another text tower.
        inputs: the features it reads.
        outputs: first `logits` or `scores` (in [0, 1]), float32 [B, N]. A head that can name the references behind
            its answer adds `reference_index` int32 and `reference_weight` float32, both [B, R'], heaviest first,
            weight 0 where fewer than R' took part.
        config: keyword arguments that build this head again, plain JSON values; `classes` is N.
        reference_ids: names of the R images that the head keeps as references; empty where it keeps none.
        decoder_width: E of what `decode` returns; 0 for heads without a decoder, which take no alignment loss.
        text_batch: label texts per training step, at most, where `trains_encoder`.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    defaults: ClassVar[TrainConfig] = UNTRAINED
    search: ClassVar[Mapping[str, Range | Choice]] = {}
    growth_rate: ClassVar[float] = 1.0
    growth_note: ClassVar[str] = ""
    trains_encoder: ClassVar[bool] = False
    uses_text_tower: bool = False
    inputs: tuple[str, ...] = ("embedding",)
    outputs: tuple[str, ...] = ("logits",)
    config: dict[str, Any]
    reference_ids: tuple[str, ...] = ()
    decoder_width: int = 0
    text_batch: int = 0
    _facts: Mapping[str, Any] = {}

    @classmethod
    def build(cls, classes: int, shapes: FeatureShapes, **options: Any) -> Self:
        """Build an untrained head for an encoder's feature widths; here for heads that read the embedding alone.

        Raises ValueError if an option is out of range or the encoder lacks what the head reads, TypeError if the head
        has no such option.
        """
        return cls(classes, shapes.embedding_width, **options)

    def rebuilt(self, **changes: Any) -> Self:
        """A new, untrained head with this one's config except for the changes."""
        return type(self)(**self.config | changes)

    def prepare(self, train: Examples, validation: Examples, texts: LabelTexts, seed: int) -> None:
        """Take from the data, before any gradient step, what the head keeps: references, label texts, label sets."""

    def parts(self) -> "list[Head]":
        """Heads that this one consists of, each to be trained on its own first; their inputs are among its `inputs`."""
        return []

    def loss(self, features: Sequence[Tensor], targets: Tensor) -> Tensor | None:
        """The head's own loss, a scalar, of its inputs and targets [B, N]; None to apply the configured loss."""
        return None

    def finish(self, validation: Examples) -> None:
        """Fit parameters on validation images, after the last gradient step."""

    def extended(self, growth: "Growth") -> Self:
        """A copy of this head with further classes after its own.

        Scores of its own classes stay equal up to rounding, unless `growth_note` says why not. Heads that take no
        further classes raise a ValueError that says why.
        """
        raise ValueError(f"{self.name} takes no further classes: train a new head on all labels")

    def facts(self) -> dict[str, Any]:
        """What a run should record about how this head was made, plain JSON values by name."""
        return dict(self._facts)

    def caveats(self, targets: npt.NDArray[np.uint8], split: str) -> list[str]:
        """What limits this head's figures on a split with these targets [R, N], one sentence each."""
        return []

    def python_model(self) -> PythonModel | None:
        """The Triton Python model that serves this head; None for heads that become graphs."""
        return None

    def scores_without(self, own: Tensor, *features: Tensor) -> Tensor:
        """The first output [B, N], without each image's own reference, row `own` int64 [B]; -1 where it is none.

        For heads with `reference_ids`: an image that finds itself copies its own labels.
        """
        raise NotImplementedError

    @property
    def names_references(self) -> bool:
        """Whether an answer names the references behind it; only then can references be added and removed."""
        return "reference_index" in self.outputs

    def reference_features(self) -> Tensor:
        """The references' embeddings, float32 [R, D], in the order of `reference_ids`."""
        raise NotImplementedError

    def reference_targets(self) -> Tensor:
        """The references' labels, 0 or 1, [R, N], in the order of `reference_ids`."""
        raise NotImplementedError

    def with_references(self, ids: Sequence[str], features: Tensor, targets: Tensor) -> Self:
        """The same head with R other references, where it `names_references`.

        Features, float32 [R, D], L2-normalised, are kept bit for bit. Targets are 0 or 1, [R, N]; N may differ.
        """
        raise NotImplementedError

    def decode(self, *features: Tensor) -> Tensor:
        """The decoder's output before the readout, [B, K, E], where there is a `decoder_width`."""
        raise NotImplementedError

    def read(self, decoded: Tensor) -> Tensor:
        """Logits [B, N] from the decoder's output [B, K, E]."""
        raise NotImplementedError

    def pair_logits(self, embedding: Tensor, texts: Tensor) -> Tensor:
        """Logits [B, M] of every pair of an image [B, D] and a label text [M, D], where it `trains_encoder`."""
        raise NotImplementedError

    def calibrate(
        self, logits: npt.NDArray[np.float32], targets: npt.NDArray[np.uint8], pretrained: tuple[float, float] | None
    ) -> None:
        """Choose, before the encoder is trained, where training starts.

        Logits are float32 [R, N], from `pair_logits` of the validation images and all label texts; `pretrained` is the
        encoder's own `sigmoid_scale`.
        """


@dataclass(frozen=True)
class Growth:
    """What a head of N classes is given to take M further ones."""

    train: Examples  # images with targets [R, N + M], the known classes first
    validation: Examples  # the same for the images that decide when to stop
    texts: LabelTexts  # all N + M labels as words
    known: int  # N
    training_asked: bool  # training was requested, so a head that does not need it trains what it can
    # takes a newly built head of the M new classes alone through `prepare`, gradient steps and `finish`
    fit: Callable[[Head], None]

    @property
    def new_texts(self) -> LabelTexts:
        """The M new classes as words."""
        return replace(self.texts, labels=self.new_labels)

    @property
    def new_labels(self) -> tuple[str, ...]:
        """Names of the M new classes."""
        return self.texts.labels[self.known :]


def first_output(head: Head, features: Sequence[Tensor]) -> Tensor:
    """A head's logits or scores, float32 [B, N], without any outputs after them."""
    output = head(*features)
    return output if isinstance(output, Tensor) else output[0]


def to_scores(head: Head, first: Tensor) -> Tensor:
    """Scores in [0, 1] from a head's first output: the sigmoid, where that is logits."""
    return first.sigmoid() if head.outputs[0] == "logits" else first


def batches(features: Features, size: int = 256) -> list[slice]:
    """Slices that walk over R rows."""
    return [slice(start, start + size) for start in range(0, len(features), size)]


def each_batch(term: Callable[..., Tensor], features: Features) -> npt.NDArray[np.float32]:
    """A function of a head's inputs, called with some rows of R images at a time: float32 [R, ...]."""
    return np.concatenate([term(*tensors(features, batch)).numpy() for batch in batches(features)])


def tensors(features: Features, index: npt.NDArray[np.int64] | slice) -> tuple[Tensor, ...]:
    """Some rows of every input as float32 tensors."""
    return tuple(torch.from_numpy(rows) for rows in features[index])
