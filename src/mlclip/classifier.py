"""Training and prediction with scikit-learn's verbs."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlclip.checkpoint import Run, labels_file, load_run, save_run
from mlclip.data import Dataset, Item, assign_splits
from mlclip.encoders import DEFAULT_CACHE, DEFAULT_ENCODER
from mlclip.encoders.clip import Encoder, load_encoder
from mlclip.encoders.features import FeatureCache
from mlclip.errors import TrainError
from mlclip.heads import find_head
from mlclip.settings import Recipe, ThresholdConfig, TrainConfig, check_number, check_seed
from mlclip.thresholds import select
from mlclip.training.loop import predict_outputs
from mlclip.training.runs import head_features, run_cache, run_scores, train_run

Labels = Sequence[Sequence[str]] | npt.NDArray[Any]


class MultiLabelClassifier:
    """A multi-label head on a frozen CLIP encoder, from image files to scores.

    >>> classifier = MultiLabelClassifier("mld").fit(paths, [["dog", "grass"], ["car"], ...])  # doctest: +SKIP
    >>> classifier.predict(["new.jpg"])  # doctest: +SKIP
    [('dog',)]

    Args:
        head: a name in `HEADS`.
        encoder: an encoder's name, or a loaded encoder.
        pretrained: tag or file of its weights; see `load_encoder`.
        options: the head's own options, such as `{"groups": 100}`.
        training: None takes the head's defaults.
        cache: folder of the features cache.
    """

    def __init__(
        self,
        head: str = "mld",
        encoder: str | Encoder = DEFAULT_ENCODER,
        pretrained: str | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        training: TrainConfig | None = None,
        thresholds: ThresholdConfig | None = None,
        cache: Path | str = DEFAULT_CACHE,
    ) -> None:
        find_head(head)
        self._run: Run | None = None
        self.recipe = Recipe(head, options or {}, training, thresholds or ThresholdConfig())
        self.encoder = encoder if isinstance(encoder, Encoder) else load_encoder(encoder, pretrained)
        self.cache = FeatureCache(self.encoder, cache)

    def fit(
        self,
        images: Sequence[Path | str],
        labels: Labels,
        texts: Sequence[str | None] | None = None,
        *,
        classes: Sequence[str] | None = None,
        validation: float = 0.2,
        seed: int = 0,
    ) -> "MultiLabelClassifier":
        """Train on R image files with their labels, and with R texts for heads that read them (`fusion`).

        `labels` are R lists of names, or a matrix of zeros and ones, [R, N], as scikit-learn's `MultiLabelBinarizer`
        makes it, whose columns are `classes`. With names, `classes` gives the order, by default alphabetical. A text is
        None for an image without one. `validation` is the share of the images, in (0, 1), that decides when to stop
        and chooses thresholds; `seed` seeds its choice, which is stratified by label. Raises MlclipError.
        """
        check_seed(seed)
        check_number("validation", validation, 0, above=True)
        order = None if classes is None else _listed(classes, (str,), "class names")
        names, items = _label_lists(labels, order), _items(images, texts)
        if len(items) != len(names):
            raise TrainError(f"{len(items)} images but {len(names)} label lists: give one list per image")
        items = tuple(replace(item, labels=own) for item, own in zip(items, names, strict=True))
        known = sorted({name for own in names for name in own}) if order is None else map(str, order)
        dataset = assign_splits(Dataset(items, tuple(known)), (1 - validation, validation, 0.0), seed)
        labels_file(dataset.classes)
        self._run = train_run(dataset, self.encoder, self.cache, self.recipe)
        return self

    @property
    def run_(self) -> Run:
        """The trained run; raises TrainError before `fit`."""
        if self._run is None:
            raise TrainError("this classifier is not fitted yet: call fit, or MultiLabelClassifier.load")
        return self._run

    @property
    def classes_(self) -> tuple[str, ...]:
        """The N class names; raises TrainError before `fit`."""
        return self.run_.labels

    def predict_proba(
        self, images: Sequence[Path | str], texts: Sequence[str | None] | None = None
    ) -> npt.NDArray[np.float32]:
        """Scores float32 [R, N] in [0, 1] of R image files, with their texts; probabilities if it is calibrated."""
        part = Dataset(_items(images, texts), self.run_.labels)
        if not part.items:
            return np.zeros((0, len(part.classes)), dtype=np.float32)
        cache = run_cache(self.run_, self.cache)
        return run_scores(self.run_, predict_outputs(self.run_.head, head_features(self.run_.head, part, cache)))

    def predict(self, images: Sequence[Path | str], texts: Sequence[str | None] | None = None) -> list[tuple[str, ...]]:
        """The selected labels of R image files, with their texts, in class order."""
        selected = select(self.predict_proba(images, texts), self.run_.thresholds)
        return [tuple(self.run_.labels[n] for n in np.flatnonzero(row)) for row in selected]

    def save(self, folder: Path | str) -> None:
        """Write the run folder that `mlclip-export` and `load` read."""
        save_run(Path(folder), self.run_)

    @classmethod
    def load(cls, folder: Path | str, cache: Path | str = DEFAULT_CACHE) -> "MultiLabelClassifier":
        """Read a run folder."""
        run = load_run(Path(folder))
        classifier = cls(run.head_name, run.encoder.load(), cache=cache)
        classifier._run = run
        return classifier


def _items(images: Sequence[Path | str], texts: Sequence[str | None] | None) -> tuple[Item, ...]:
    paths = _listed(images, (str, os.PathLike), "image files, such as ['a.jpg', 'b.jpg']")
    words = [None] * len(paths) if texts is None else _listed(texts, (str, type(None)), "texts or None, one per image")
    if len(words) != len(paths):
        raise TrainError(f"{len(paths)} images but {len(words)} texts: give one per image, None where there is none")
    return tuple(Item(Path(path), text=text) for path, text in zip(paths, words, strict=True))


def _listed(values: Any, kinds: tuple[type, ...], what: str) -> list[Any]:
    """Values in a list, each of some kinds; anything else raises a TrainError that says what is expected."""
    listed = list(values) if isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping)) else None
    wrong = [values] if listed is None else [value for value in listed if not isinstance(value, kinds)]
    if listed is None or wrong:
        raise TrainError(f"give a list of {what}, not {type(wrong[0]).__name__} {' '.join(repr(wrong[0]).split()):.60}")
    return listed


def _label_lists(labels: Any, classes: Sequence[str] | None) -> list[tuple[str, ...]]:
    """The names of each image's labels, from lists of names or from a matrix of zeros and ones [R, N]."""
    form = "names per image, such as [['cat'], ['a', 'b']]"
    given = labels.toarray() if hasattr(labels, "toarray") else labels
    try:
        matrix = np.asarray(given)
    except ValueError:  # lists of unequal length
        matrix = np.empty(0)
    if matrix.ndim != 2 or matrix.dtype.kind not in "biuf" or not matrix.size:
        rows = _listed(given, (list, tuple, set, frozenset, np.ndarray), f"lists of {form}")
        return [tuple(sorted(_listed(row, (str,), form))) for row in rows]
    if classes is None or len(classes) != matrix.shape[1] or not np.isin(matrix, (0, 1)).all():
        raise TrainError(
            f"labels are a matrix {list(matrix.shape)}: give lists of {form}, or zeros and ones with the names of the "
            "columns, classes=binarizer.classes_"
        )
    return [tuple(str(classes[n]) for n in np.flatnonzero(row)) for row in matrix]
