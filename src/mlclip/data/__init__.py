"""Labelled images from a folder, a manifest or COCO annotations: read, checked and split.

::

    prepared = prepare("photos", labels=Path("labels.csv"))   # reads, checks every file, splits
    write_manifest(prepared.dataset, Path("manifest.jsonl"))
    dataset = read_dataset("manifest.jsonl")                  # what training starts from
    targets = dataset.split("train").targets()                # uint8 [R, N]

A manifest has the columns path and labels, and may have text, split, group and sha256. In CSV, labels are
separated by `|`. COCO's two files go in together: `prepare("annotations/instances_train2017.json",
"test=annotations/instances_val2017.json")` takes COCO's val as test, and cuts val from train.
"""

from mlclip.data.coco import read_coco
from mlclip.data.dataset import SPLITS, Dataset, Item
from mlclip.data.manifest import read_manifest, write_manifest
from mlclip.data.prepare import Prepared, prepare
from mlclip.data.problems import Problem, Report
from mlclip.data.read import read_dataset, scan
from mlclip.data.splits import assign_splits, k_shot
from mlclip.data.validate import validate

__all__ = [
    "SPLITS",
    "Dataset",
    "Item",
    "Prepared",
    "Problem",
    "Report",
    "assign_splits",
    "k_shot",
    "prepare",
    "read_coco",
    "read_dataset",
    "read_manifest",
    "scan",
    "validate",
    "write_manifest",
]
