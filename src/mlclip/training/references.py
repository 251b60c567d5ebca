"""References of a run, added and removed without training.

The search settings, the thresholds and the order of the old classes stay. An image's scores change only if an added or
removed reference is among its neighbours. If added references have total weight w, every old weight shrinks by the
factor 1 - w, and the labels of the added ones gain w, unless they displace an old neighbour through `max_neighbors` or
`max_difference`; an old reference counts as having none of the new classes. Measured figures no longer describe the run
and are removed.
"""

import os
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import normalize, pad

from mlclip.calibration import grown
from mlclip.checkpoint import REFERENCES, Run
from mlclip.data import Dataset, Item
from mlclip.data.dataset import Progress, quiet
from mlclip.encoders.features import FeatureCache
from mlclip.errors import CheckpointError, DataError
from mlclip.heads import Head
from mlclip.training.runs import unpromised


def append_references(
    run: Run,
    dataset: Dataset,
    cache: FeatureCache,
    *,
    new_labels: bool = True,
    on_features: Progress = quiet,
) -> Run:
    """Add labelled images to a run's references.

    Images of the splits `val` and `test` are left out, so that evaluation on them stays valid; so are images without a
    label, and images that are references already.

    With `new_labels`, labels that the run does not know become classes, after its own, in the dataset's order, with the
    median of the run's thresholds; otherwise they are ignored. Returns the run with more references and without
    figures, or the same run where there is nothing to add.
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
    more = head.with_references(
        (*head.reference_ids, *(str(item.path) for item in items)),
        torch.cat([head.reference_features(), normalize(torch.from_numpy(rows[slice(None)]), dim=1)]),
        torch.cat([old, targets.to(old.dtype)]),
    )
    fallback = np.full(len(labels) - len(run.labels), np.median(run.thresholds), dtype=np.float32)
    limits, maps = np.concatenate([run.thresholds, fallback]), grown(run.calibration, len(fallback))
    return replace(unpromised(run), head=more, labels=labels, thresholds=limits, metrics={}, calibration=maps)


def remove_references(run: Run, ids: Collection[str], *, drop_labels: bool = False) -> Run:
    """Remove references from a run by their names, and its figures.

    With `drop_labels`, classes without a remaining reference are removed too; otherwise they stay and score 0.
    """
    head, gone = _keeper(run), frozenset(ids)
    unknown = sorted(gone.difference(head.reference_ids))
    if unknown:
        more = f" (and {len(unknown) - 1:,} more)" if len(unknown) > 1 else ""
        raise DataError(f"{unknown[0]!r} is not a reference of this run{more}: see `mlclip references RUN --list`")
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
    maps, limits = run.calibration, run.thresholds[columns.numpy()]
    maps = None if maps is None else maps[:, columns.numpy()]
    return replace(unpromised(run), head=shrunk, labels=labels, thresholds=limits, metrics={}, calibration=maps)


def _keeper(run: Run) -> Head:
    """A run's head, if its references can change and all have names, which a lost or truncated file would not."""
    if not run.head.names_references:
        raise CheckpointError(f"this {run.head_name} keeps no references that could change: use neighbors or knn1")
    names, references = len(run.head.reference_ids), len(run.head.reference_targets())
    if names != references:
        raise CheckpointError(f"this run names {names:,} of its {references:,} references: restore its {REFERENCES}")
    return run.head


def _newcomers(run: Run, dataset: Dataset) -> list[Item]:
    """The items to append; relative and absolute paths of an image are the same."""
    places = {os.path.abspath(name): "" for name in run.head.reference_ids}
    items = []
    for item in dataset.items:
        place = os.path.abspath(item.path)
        if not item.labels or item.split not in (None, "train") or places.get(place) == "":
            continue
        if place in places:
            raise DataError(f"{item.place}: {item.path} is given twice, first at {places[place]}: remove one")
        places[place] = item.place
        items.append(item)
    return items
