"""What the client returns: plain frozen values with numpy arrays inside."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlclip_client.errors import ClientError
from mlclip_client.pixels import PixelSpec


@dataclass(frozen=True)
class HeadInfo:
    """What the server tells about one head.

    Attributes:
        labels: N label names in class order.
        labels_sha256: hash of labels.txt, which tells two label lists apart.
        thresholds: N thresholds; a label is selected where score >= threshold.
        embedding_size: D, the length of the encoder's embedding.
        version: of the head's own ensemble.
        mlclip_version: of the mlclip that exported it.
        explains: whether it can name the reference images behind an answer.
        reads_text: whether it also reads an image's text.
        calibrated: whether scores are calibrated probabilities.
        promise, validation: as in `model_repository/README.md`; None if it has none.
        novelty: whether it says how unlike its training images an image is.
    """

    name: str
    labels: tuple[str, ...] = field(repr=False)
    labels_sha256: str
    thresholds: tuple[float, ...] = field(repr=False)
    encoder: str
    spec: PixelSpec
    embedding_size: int
    version: str
    mlclip_version: str
    explains: bool = False
    reads_text: bool = False
    calibrated: bool = False
    promise: dict[str, Any] | None = field(default=None, repr=False, compare=False)
    novelty: bool = False
    validation: dict[str, Any] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Reference:
    """A reference image behind an answer.

    Attributes:
        id: its name in the training data.
        weight: its share in the answer; the shares of all references sum to 1.
    """

    id: str
    labels: tuple[str, ...]
    weight: float


@dataclass(frozen=True, eq=False)
class Answer:
    """One head's answer for one image.

    Attributes:
        labels: N label names in class order.
        scores: float32 [N], in class order.
        selected: bool [N]: score >= the label's threshold, as the server decided.
        model: the ensemble that answered.
        version: of the head's own ensemble that takes images the same way, even if a combined ensemble answered.
        references: those behind the answer, heaviest first, if asked for and if the head has references.
        novelty: 0 to 1, if the head says it: the share of its validation images that lie nearer to its training images.
    """

    head: str
    labels: tuple[str, ...] = field(repr=False)
    scores: npt.NDArray[np.float32]
    selected: npt.NDArray[np.bool_]
    labels_sha256: str
    model: str
    version: str
    references: tuple[Reference, ...] | None = None
    novelty: float | None = None

    def top(self, k: int) -> list[tuple[str, float]]:
        """Give the k best labels with their scores, best first; ties in class order."""
        return self._named(np.argsort(-self.scores, kind="stable")[:k])

    def chosen(self) -> list[tuple[str, float]]:
        """Give the selected labels with their scores, best first; ties in class order."""
        order = np.argsort(-self.scores, kind="stable")
        return self._named(order[self.selected[order]])

    def _named(self, indices: npt.NDArray[np.intp]) -> list[tuple[str, float]]:
        return [(self.labels[index], float(self.scores[index])) for index in indices]


@dataclass(frozen=True, eq=False)
class Prediction:
    """Result for one image: answers, or an error.

    Attributes:
        source: the path as it was given; None for an image from memory.
        answers: head name -> answer; empty when there is an error.
        embedding: float32 [D], the encoder's L2-normalised image embedding, if it was asked for.
        error: why there are no answers, otherwise None.
    """

    source: str | None
    answers: dict[str, Answer]
    embedding: npt.NDArray[np.float32] | None = None
    error: ClientError | None = None
