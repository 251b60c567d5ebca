"""Label audit: which labels of a dataset do trained heads disagree with?

Document 002 (Bynke 2022, "Multi-label image classification with language-image models", 6.3) proposes to rank images
by how much models disagree with their labels, so that a person looks at the worst first.

::

    found = audit(dataset, encoder, cache, [Recipe("sigmoid"), Recipe("neighbors")])
    write_sheet(Path("audit.csv"), dataset, found.doubts[:1000], found.suggested)
    # a person fills in the column `decision`
    corrected = apply_sheet(Path("audit.csv"), dataset).dataset
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlclip.audit.doubts import Doubt, LabelDoubts, by_label, find_doubts, import_cleanlab
from mlclip.audit.folds import opinions
from mlclip.audit.sheet import Applied, apply_sheet, write_sheet
from mlclip.data import Dataset
from mlclip.data.dataset import Progress, quiet
from mlclip.encoders.clip import Encoder
from mlclip.encoders.features import FeatureCache
from mlclip.settings import Recipe

__all__ = ["Applied", "Audit", "Doubt", "LabelDoubts", "apply_sheet", "audit", "write_sheet"]


@dataclass(frozen=True)
class Audit:
    """What an audit found."""

    # labels of which the heads believe the opposite; missing and wrong ones in turn, worst first
    doubts: tuple[Doubt, ...]
    labels: tuple[LabelDoubts, ...]  # how consistent each label is, the least consistent first
    suggested: npt.NDArray[np.bool_]  # bool [R, N]: labels that at least half of the heads would have given


def audit(
    dataset: Dataset,
    encoder: Encoder,
    cache: FeatureCache,
    recipes: Sequence[Recipe],
    folds: int = 5,
    seed: int = 0,
    *,
    on_training: Progress = quiet,
) -> Audit:
    """Look for label errors in R labelled images; their splits are ignored, and every image is judged.

    Arguments are those of `opinions`; two heads of different kinds see more than one. Raises DataError for fewer groups
    of images than folds, and TrainError without cleanlab, for fewer than 3 folds, or if training fails.
    """
    import_cleanlab()
    heard = opinions(dataset, encoder, cache, recipes, folds, seed, on_training=on_training)
    targets = dataset.targets()
    doubts = find_doubts(targets, heard)
    return Audit(tuple(doubts), tuple(by_label(targets, doubts)), heard.selected.mean(axis=0) >= 0.5)
