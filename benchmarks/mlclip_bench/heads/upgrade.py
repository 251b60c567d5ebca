"""Whether a new run is better than the one it would replace, on the same validation images."""

from pathlib import Path

from mlclip.checkpoint import Run
from mlclip.data import Dataset
from mlclip.encoders.features import FeatureCache
from mlclip.errors import DataError
from mlclip.training.runs import split_scores
from mlclip_bench.heads.comparison import compare_methods, compared_by
from mlclip_bench.heads.results import TestScores
from mlclip_bench.heads.tables import COMPARED_AS, gap
from mlclip_bench.kit.markdown import bullets


def compare_runs(old: Run, new: Run, dataset: Dataset, cache: Path) -> str:
    """Sentences with the difference of both runs in each compared metric, with its 95 % interval.

    They are compared on the validation images of `dataset`, by the labels that both know; those of the new run alone
    count for neither. Raises DataError if they have no label in common, or the images none of these.
    """
    labels = tuple(label for label in old.labels if label in new.labels)
    targets = dataset.split("val").with_classes(labels).targets()
    if not targets.any():
        raise DataError("the runs cannot be compared: no validation image has a label that both know")
    outcomes = {}
    for name, run in (("old", old), ("new", new)):
        columns = [run.labels.index(label) for label in labels]
        _, scores = split_scores(run, dataset, FeatureCache(run.encoder.load(), cache), "val")
        outcomes[name] = [TestScores(scores[:, columns], run.thresholds[columns])]
    lines = [f"{len(targets):,} validation images, {len(labels):,} labels that both runs know"]
    for metric, function in compared_by("heads").items():
        found = compare_methods(targets, outcomes, function)
        before, after = (f"{100 * value:.1f}" for value in found.estimates)
        said = "they cannot be told apart"
        if found.apart(0, 1):
            said = f"the new run is {'better' if found.best == 1 else 'worse'}"
        lines.append(f"{COMPARED_AS[metric][0]}: {before} before, {after} after: {gap(found, 1, 0)} points, {said}")
    return bullets(lines)
