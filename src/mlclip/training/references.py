"""References of a run: named behind an answer, appended and removed without training.

What stays when references come or go: the search settings, the thresholds and the order of the old classes. An
image's scores stay where none of those that come or go is among its neighbours. Where newcomers of total weight w
are, every old weight shrinks by the factor 1 - w, and the newcomers' own labels gain w, as long as they push no old
neighbour over `max_neighbors` or `max_difference`; an old reference counts as having none of the new classes.
Figures that were measured before no longer describe the run, so they go: measure them again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import normalize, pad

from mlclip.checkpoint import REFERENCES, Run, load_run, save_run
from mlclip.data import Dataset, Item
from mlclip.encoders.features import FeatureCache
from mlclip.errors import CheckpointError, DataError
from mlclip.heads import Head


def append_references(
    run: Run,
    dataset: Dataset,
    cache: FeatureCache,
    *,
    new_labels: bool = True,
    on_features: Callable[[int, int], None] = lambda done, total: None,
) -> Run:
    """Add labelled images to a run's references.

    Images of the splits `val` and `test` are left out, so that what is measured there stays honest; so are images
    without a label, and images that are references already.

    Args:
        run: of a head that keeps references.
        dataset: labelled images.
        cache: features of the run's encoder.
        new_labels: labels that the run does not know become classes, behind its own, in the dataset's order; their
            threshold is the median of the run's (which is the global one, where it has one for all). Without, they
            are left aside.
        on_features: called with images done and to do while features are computed.

    Returns:
        The run with more references, and without figures; the same run where there is nothing to add.

    Raises:
        CheckpointError: the head keeps no references.
        DataError: an image is given twice.
    """
    head = _keeper(run)
    classes = tuple(name for name in dataset.classes if name not in run.labels) if new_labels else ()
    items = _newcomers(run, dataset.with_classes((*run.labels, *classes)))
    if not items:
        return run
    labels = run.labels + tuple(name for name in classes if any(name in item.labels for item in items))
    rows = cache.rows([item.path for item in items], on_progress=on_features)
    targets = torch.from_numpy(Dataset(tuple(items), labels).targets())
    old = pad(head.reference_targets(), (0, len(labels) - len(run.labels)))
    grown = head.with_references(
        (*head.reference_ids, *(str(item.path) for item in items)),
        torch.cat([head.reference_features(), normalize(torch.from_numpy(rows[slice(None)]), dim=1)]),
        torch.cat([old, targets.to(old.dtype)]),
    )
    fallback = np.full(len(labels) - len(run.labels), np.median(run.thresholds), dtype=np.float32)
    return _with(run, grown, labels, np.concatenate([run.thresholds, fallback]))


def remove_references(run: Run, ids: Collection[str], *, drop_labels: bool = False) -> Run:
    """Take references out of a run.

    Args:
        run: of a head that keeps references.
        ids: their names.
        drop_labels: classes that no reference is left for go, too; without, they stay and score 0.

    Returns:
        The run with fewer references, and without figures.

    Raises:
        CheckpointError: the head keeps no references.
        DataError: a name is no reference's, or none would be left.
    """
    head, gone = _keeper(run), frozenset(ids)
    unknown = sorted(gone.difference(head.reference_ids))
    if unknown:
        more = f" (nor are {len(unknown) - 1:,} more)" if len(unknown) > 1 else ""
        raise DataError(f"{unknown[0]!r} is no reference of this run{more}: `mlclip references RUN --list` names them")
    kept = [row for row, name in enumerate(head.reference_ids) if name not in gone]
    if not kept:
        raise DataError("no reference would be left: keep at least one")
    targets = head.reference_targets()[kept]
    columns = targets.bool().any(dim=0) if drop_labels else torch.ones(len(run.labels), dtype=torch.bool)
    labels = tuple(name for name, stays in zip(run.labels, columns.tolist(), strict=True) if stays)
    if not labels:
        raise DataError("no label would be left: keep at least one reference that has one")
    names = tuple(head.reference_ids[row] for row in kept)
    shrunk = head.with_references(names, head.reference_features()[kept], targets[:, columns])
    return _with(run, shrunk, labels, run.thresholds[columns.numpy()])


def edit_run(folder: Path, change: Callable[[Run], Run]) -> tuple[Run, Run]:
    """Change a run folder as a whole: another is written beside it and takes its place with two renames.

    Whoever edits it at the same time waits; a change that fails leaves the folder as it was.

    Args:
        folder: a run folder.
        change: from the run as it is to the run as it shall be; where it returns the same, nothing is written.

    Returns:
        The run before and after.

    Raises:
        CheckpointError: the folder cannot be read or written.
    """
    folder = folder.resolve()
    with _locked(folder):
        before = load_run(folder)
        after = change(before)
        if after is not before:
            _replace(folder, after)
    return before, after


def _replace(folder: Path, run: Run) -> None:
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as staging:
            new, old = Path(staging) / "new", Path(staging) / "old"
            shutil.copytree(folder, new)  # for files in it that are not a run's own
            save_run(new, run)
            folder.rename(old)
            try:
                new.rename(folder)
            except OSError:
                old.rename(folder)
                raise
    except (OSError, shutil.Error) as error:
        raise CheckpointError(f"cannot write the run folder {folder}: {error}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The parent folder is what stays while run folders change places, so the lock lies there."""
    try:
        handle = os.open(folder.parent, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(f"{folder} is no run folder: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _keeper(run: Run) -> Head:
    """A run's head, if its references can change and all have names (their file may be lost or truncated)."""
    if not run.head.names_references:
        raise CheckpointError(f"this {run.head_name} keeps no references that could change: use neighbors or knn1")
    names, references = len(run.head.reference_ids), len(run.head.reference_targets())
    if names != references:
        raise CheckpointError(f"this run names {names:,} of its {references:,} references: restore its {REFERENCES}")
    return run.head


def _newcomers(run: Run, dataset: Dataset) -> list[Item]:
    """The items to append; a path is the same image whether it is written relative or absolute."""
    places = {os.path.abspath(name): "" for name in run.head.reference_ids}
    items = []
    for item in dataset.items:
        place = os.path.abspath(item.path)
        if not item.labels or item.split not in (None, "train") or places.get(place) == "":
            continue
        if place in places:
            raise DataError(f"{item.place}: {item.path} is given twice, first at {places[place]}: take one out")
        places[place] = item.place
        items.append(item)
    return items


def _with(run: Run, head: Head, labels: tuple[str, ...], thresholds: npt.NDArray[np.float32]) -> Run:
    return replace(run, head=head, labels=labels, thresholds=thresholds, metrics={})
