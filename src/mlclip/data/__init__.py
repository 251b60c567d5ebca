"""Labelled images from a folder, a manifest or COCO annotations: read, checked, prepared and split.

::

    admitted = admit("photos", labels=Path("labels.csv"))     # reads, checks every file, splits
    write_manifest(admitted.dataset, Path("manifest.jsonl"))
    dataset = read_dataset("manifest.jsonl")                  # the input of training
    targets = dataset.split("train").targets()                # uint8 [R, N]

    prepared = prepare(dataset, cache.rows)                   # near-duplicates and rare labels dropped, strata split
    write_manifest(prepared.dataset, Path("prepared.jsonl"))

A manifest has the columns path and labels, and may have text, split, group and sha256. In CSV, labels are
separated by `|`. COCO's two files go in together: `admit("annotations/instances_train2017.json",
"test=annotations/instances_val2017.json")` takes COCO's val as test, and cuts val from train.
"""

from mlclip.data.admit import Admitted, admit
from mlclip.data.changes import Change, write_changes
from mlclip.data.coco import read_coco
from mlclip.data.dataset import SPLITS, Dataset, Item
from mlclip.data.duplicate_pairs import Points
from mlclip.data.manifest import read_manifest, write_manifest
from mlclip.data.prepare import Preparation, Prepared, prepare
from mlclip.data.problems import Problem, Report
from mlclip.data.read import read_dataset, scan
from mlclip.data.splits import assign_splits, k_shot
from mlclip.data.validate import validate

__all__ = [
    "SPLITS", "Admitted", "Change", "Dataset", "Item", "Points", "Preparation", "Prepared", "Problem", "Report",
    "admit", "assign_splits", "k_shot", "prepare", "read_coco", "read_dataset", "read_manifest", "scan", "validate",
    "write_changes", "write_manifest",
]  # fmt: skip
