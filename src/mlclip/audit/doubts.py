"""The labels that the heads doubt: cleanlab finds and scores them, one label of one image at a time.

A multi-label score (Thyagarajan et al. 2022, "Identifying Incorrect Annotations in Multi-Label Classification Data",
https://arxiv.org/abs/2211.13895) ranks them; confident learning (Northcutt, Jiang, Chuang 2021, "Confident Learning:
Estimating Uncertainty in Dataset Labels", https://arxiv.org/abs/1911.00068) says which of them are errors rather than
labels that are hard to see.

Most labels are on few images, so a head is never as sure that a label is missing as it is that one is wrong, and a
common ranking would start with hundreds of wrong ones: with 5 % of the labels removed and as many added at random
(openclip top-46), its first 1,500 lines held 79 % of those added and 3 % of those removed. The list takes them in turn
instead: the worst missing one, the worst wrong one, the second worst missing one, ...
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlclip.audit.folds import Opinions
from mlclip.errors import TrainError

MISSING, WRONG = "missing?", "wrong?"


@dataclass(frozen=True)
class Doubt:
    """One label of one image of which the heads believe the opposite."""

    row: int  # the image
    label: int  # the class
    kind: str  # `missing?`: heads see a label that was not given; `wrong?`: heads do not see one that was
    score: float  # probability of the opposite of what the data says, mean over heads
    probability: float  # of the label, mean over heads
    agreement: float  # share of the heads that would have decided otherwise than the data
    suspected: bool  # by confident learning, as an error
    image_score: float  # how wrong the image's labels are together; 0 is not at all


@dataclass(frozen=True)
class LabelDoubts:
    """How consistent one label is: images that have it, and images where it is suspected to be missing or wrong."""

    label: int
    images: int
    missing: int
    wrong: int

    @property
    def share(self) -> float:
        """Suspected errors per image that has the label; above 1 where more lack it than have it."""
        return (self.missing + self.wrong) / max(1, self.images)


def find_doubts(targets: npt.NDArray[np.uint8], opinions: Opinions) -> list[Doubt]:
    """All labels with a score of at least one half, missing and wrong ones in turn, worst first.

    `targets` are the labels as given, 0 or 1, [R, N].
    """
    label_quality, image_quality, filters = import_cleanlab()
    given, probabilities = targets.astype(np.bool_), opinions.probabilities.mean(axis=0)
    lists = [np.flatnonzero(row).tolist() for row in given]
    quality = np.reshape(label_quality(lists, probabilities, method="self_confidence"), given.shape)
    images = 1 - image_quality(lists, probabilities)
    suspected = np.zeros_like(given)
    mixed = np.flatnonzero(given.any(axis=0) & ~given.all(axis=0))  # cleanlab refuses labels that all or none have
    if mixed.size:
        some = [np.flatnonzero(row).tolist() for row in given[:, mixed]]
        suspected[:, mixed] = filters(some, probabilities[:, mixed], filter_by="confident_learning", n_jobs=1)
    against = (opinions.selected != given).mean(axis=0)

    def ranked(kind: str, part: npt.NDArray[np.bool_]) -> list[Doubt]:
        doubted = part & (quality <= 0.5)
        order = np.argsort(quality[doubted], kind="stable")
        return [
            Doubt(
                row=int(row),
                label=int(label),
                kind=kind,
                score=float(1 - quality[row, label]),
                probability=float(probabilities[row, label]),
                agreement=float(against[row, label]),
                suspected=bool(suspected[row, label]),
                image_score=float(images[row]),
            )
            for row, label in np.argwhere(doubted)[order]
        ]

    pairs = itertools.zip_longest(ranked(MISSING, ~given), ranked(WRONG, given))
    return [doubt for pair in pairs for doubt in pair if doubt is not None]


def by_label(targets: npt.NDArray[np.uint8], doubts: list[Doubt]) -> list[LabelDoubts]:
    """How consistent each label is, the least consistent first."""
    counts = {
        kind: np.bincount([d.label for d in doubts if d.suspected and d.kind == kind], minlength=targets.shape[1])
        for kind in (MISSING, WRONG)
    }
    labels = (
        LabelDoubts(n, int(targets[:, n].sum()), int(counts[MISSING][n]), int(counts[WRONG][n]))
        for n in range(targets.shape[1])
    )
    return sorted(labels, key=lambda label: -label.share)


def import_cleanlab() -> tuple[Any, Any, Any]:
    """The functions of cleanlab that score labels, score images and find errors; raises TrainError without cleanlab."""
    try:
        from cleanlab.multilabel_classification import filter as filters  # type: ignore[import-untyped]
        from cleanlab.multilabel_classification import rank
    except ImportError as error:
        raise TrainError(f"the audit needs cleanlab: pip install 'mlclip[audit]' ({error})") from error
    return (
        rank.get_label_quality_scores_per_class,
        rank.get_label_quality_scores,
        filters.find_multilabel_issues_per_class,
    )
