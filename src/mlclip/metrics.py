"""Measures of multi-label classification, over all pairs and per class.

Micro averages count every pair of image and class equally; macro averages are means of the classes' own figures, over
classes with at least one true image (the others are counted in `classes_without_positives`), and weighted averages too,
weighted by true images. The precision of an empty selection is 0. Average precision and nDCG are scikit-learn's.

Precision and F2 depend on how common labels are, so `prevalence` stands beside them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlclip.thresholds import check_scores, select

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Average:
    """Precision, recall, F1, F2 and specificity (recall of what is false) of one way to average; all in [0, 1]."""

    precision: float
    recall: float
    f1: float
    f2: float
    specificity: float


@dataclass(frozen=True)
class ClassMetrics:
    """The figures of one class.

    `label` is the index where no names were given; `positives` and `selected` count images, `prevalence` is the share
    of positives. Average precision is None without a true image, `roc_auc` also without a false one.
    """

    label: str
    threshold: float
    positives: int
    selected: int
    prevalence: float
    precision: float
    recall: float
    f1: float
    f2: float
    specificity: float
    average_precision: float | None
    roc_auc: float | None


@dataclass(frozen=True)
class Metrics:
    """All figures of one evaluation; None where a figure is undefined.

    Attributes:
        classes_without_positives: left out of every macro average.
        prevalence: share of true pairs, the precision of random guessing.
        mean_average_precision: macro mAP.
        precision_at: k → share of true labels among the k best of an image, mean over all images.
        ndcg_at: k → nDCG of the k best, mean over the images that have a true label.
        mse: mean squared difference of score and target.
        accuracy: share of pairs decided correctly.
        subset_accuracy: share of images whose whole label set is right.
        roc_auc_macro: mean of the classes that have one.
    """

    images: int
    classes: int
    classes_without_positives: int
    prevalence: float
    micro: Average
    macro: Average
    weighted: Average
    mean_average_precision: float | None
    precision_at: dict[int, float]
    ndcg_at: dict[int, float]
    mse: float
    accuracy: float
    subset_accuracy: float
    roc_auc_micro: float | None
    roc_auc_macro: float | None
    per_class: tuple[ClassMetrics, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, ready for `json.dumps`; the keys of `*_at` become strings."""
        plain = asdict(self)
        for name in ("precision_at", "ndcg_at"):
            plain[name] = {str(k): value for k, value in plain[name].items()}
        plain["per_class"] = list(plain["per_class"])
        return plain


def evaluate(
    targets: npt.NDArray[np.generic],
    scores: Scores,
    thresholds: Scores | float = 0.5,
    *,
    classes: Sequence[str] | None = None,
    ks: Sequence[int] = (1, 3, 5),
) -> Metrics:
    """Measure scores against targets.

    Args:
        targets: 0 or 1, [R, N].
        scores: float32 or float64, [R, N].
        thresholds: [N], or one for all; a label is selected where score >= threshold.
        classes: N names for the per-class table.
        ks: the k of P@k and nDCG@k; those above N are left out.

    Raises:
        ValueError: shapes disagree, targets are not 0 or 1, scores are float16 (they tie) or not finite.
    """
    truth, values, limits, names = _checked(targets, scores, thresholds, classes)
    selected = select(values, limits)
    present = truth.any(axis=0)
    rates = _rates(truth, selected, axis=0)
    average_precision = _average_precision(truth, values)
    roc_auc = _roc_auc(truth, values)
    positives = truth.sum(axis=0)
    columns = (limits, positives, selected.sum(axis=0), truth.mean(axis=0), *rates)
    rows = zip(names, *(column.tolist() for column in columns), average_precision, roc_auc, strict=True)
    return Metrics(
        images=truth.shape[0],
        classes=truth.shape[1],
        classes_without_positives=int((~present).sum()),
        prevalence=float(truth.mean()),
        micro=Average(*(float(rate) for rate in _rates(truth, selected, axis=None))),
        macro=Average(*(float(rate[present].mean()) if present.any() else 0.0 for rate in rates)),
        weighted=Average(*(float(rate @ positives / max(positives.sum(), 1)) for rate in rates)),
        mean_average_precision=_mean(average_precision),
        precision_at=_precision_at(truth, values, ks),
        ndcg_at=_ndcg_at(truth, values, ks),
        mse=float(np.mean((values - truth) ** 2)),
        accuracy=float((selected == truth).mean()),
        subset_accuracy=float((selected == truth).all(axis=1).mean()),
        roc_auc_micro=_roc_auc(truth.reshape(-1, 1), values.reshape(-1, 1))[0],
        roc_auc_macro=_mean(roc_auc),
        per_class=tuple(ClassMetrics(*row) for row in rows),
    )


def mean_average_precision(targets: npt.NDArray[np.generic], scores: Scores) -> float | None:
    """Macro mAP alone, for early stopping after every epoch; arguments as for `evaluate`.

    It is the mean over the classes with a true image; None where no class has one.
    """
    truth, values, _, _ = _checked(targets, scores, 0.5, None)
    return _mean(_average_precision(truth, values))


def _rates(truth: Bools, selected: Bools, axis: int | None) -> tuple[Floats, ...]:
    """Precision, recall, F1, F2, specificity from counts; 0 / 0 is 0."""
    hits = np.sum(truth & selected, axis=axis, dtype=np.float64)
    chosen = np.sum(selected, axis=axis, dtype=np.float64)
    positives = np.sum(truth, axis=axis, dtype=np.float64)
    return (
        _ratio(hits, chosen),
        _ratio(hits, positives),
        _ratio(2 * hits, positives + chosen),
        _ratio(5 * hits, 4 * positives + chosen),
        _ratio(np.sum(~truth & ~selected, axis=axis, dtype=np.float64), np.sum(~truth, axis=axis, dtype=np.float64)),
    )


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.asarray(part / np.maximum(whole, 1), dtype=np.float64)


def _average_precision(truth: Bools, values: Floats) -> list[float | None]:
    """Per column, the mean over its true images of the precision where each is reached; ties are reached together.

    Equal to scikit-learn's `average_precision_score`, but for all columns at once, since every epoch needs it.
    """
    order = np.argsort(-values, axis=0, kind="stable")
    ranked = np.take_along_axis(values, order, axis=0)
    hits = np.cumsum(np.take_along_axis(truth, order, axis=0), axis=0, dtype=np.float64)
    precision = hits / np.arange(1, len(truth) + 1)[:, None]
    last_of_tie = np.vstack([ranked[1:] != ranked[:-1], np.ones((1, truth.shape[1]), dtype=np.bool_)])
    before = np.maximum.accumulate(np.where(last_of_tie, hits, 0), axis=0)[:-1]
    gained = hits - np.vstack([np.zeros((1, truth.shape[1])), before])
    totals = np.where(last_of_tie, gained * precision, 0).sum(axis=0)
    return [float(total / count) if count else None for total, count in zip(totals, hits[-1], strict=True)]


def _roc_auc(truth: Bools, values: Floats) -> list[float | None]:
    """Per column, the chance that a true image outscores a false one (Mann-Whitney's U; a tie counts half).

    Equal to scikit-learn's `roc_auc_score`, but for all columns at once.
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]  # slow to load

    ranks = rankdata(values, axis=0)
    positives = truth.sum(axis=0, dtype=np.float64)
    pairs = positives * (len(truth) - positives)
    above = np.where(truth, ranks, 0.0).sum(axis=0) - positives * (positives + 1) / 2
    return [float(u / n) if n else None for u, n in zip(above, pairs, strict=True)]


def _mean(figures: Sequence[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return float(np.mean(known)) if known else None


def _precision_at(truth: Bools, values: Floats, ks: Sequence[int]) -> dict[int, float]:
    """Equal scores rank by class order, as in the served preview."""
    ranking = np.argsort(-values, axis=1, kind="stable")
    hits = np.take_along_axis(truth, ranking, axis=1)
    return {k: float(hits[:, :k].mean()) for k in ks if k <= truth.shape[1]}


def _ndcg_at(truth: Bools, values: Floats, ks: Sequence[int]) -> dict[int, float]:
    rows = truth.any(axis=1)
    if not rows.any():
        return {}
    from sklearn.metrics import ndcg_score  # type: ignore[import-untyped]  # slow to load

    if truth.shape[1] == 1:  # one class ranks perfectly, and scikit-learn refuses it
        return {k: 1.0 for k in ks if k == 1}
    return {k: float(ndcg_score(truth[rows], values[rows], k=k)) for k in ks if k <= truth.shape[1]}


def _checked(
    targets: npt.NDArray[np.generic], scores: Scores, thresholds: Scores | float, classes: Sequence[str] | None
) -> tuple[Bools, Floats, Floats, Sequence[str]]:
    if targets.ndim != 2 or targets.shape != scores.shape or 0 in targets.shape:
        raise ValueError(f"targets and scores must both be [R, N], not {list(targets.shape)} and {list(scores.shape)}")
    check_scores(targets, scores)
    if not np.isin(targets, (0, 1)).all():
        raise ValueError("targets must be 0 or 1")
    if np.shape(thresholds) not in ((), (targets.shape[1],)):
        raise ValueError(f"thresholds must be one number or [{targets.shape[1]}], not {list(np.shape(thresholds))}")
    limits = np.broadcast_to(np.asarray(thresholds, dtype=np.float64), (targets.shape[1],))
    if not np.isfinite(limits).all():
        raise ValueError("thresholds hold NaN or infinity: tune them again")
    names = [str(n) for n in range(targets.shape[1])] if classes is None else list(classes)
    if len(names) != targets.shape[1]:
        raise ValueError(f"{targets.shape[1]} classes but {len(names)} names")
    return targets.astype(np.bool_), scores.astype(np.float64), limits, names
