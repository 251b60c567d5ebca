"""Check every image of a dataset and report all that is wrong, with line numbers."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from mlclip_client.pixels import ImageError, decode

from mlclip.data.dataset import Dataset, Item, Progress, quiet
from mlclip.data.problems import Problem, Report
from mlclip.data.read import unknown_labels
from mlclip.files import read_file


def validate(dataset: Dataset, *, problems: Iterable[Problem] = (), on_progress: Progress = quiet) -> Report:
    """Check labels, files and pixels; report all findings, and the dataset with the files' hashes.

    Errors: a label that is none of the classes, a file that is missing or cannot be decoded, a repeated path, a picture
    (same bytes) that is also in another split. Warnings: no label, the same bytes twice in one split, a file that has
    changed since its hash was recorded. `problems`, which reading has found already, come first in the report.
    """
    unlabelled = [Problem(item.place, "no label", "warning") for item in dataset.items if not item.labels]
    found = [*problems, *unknown_labels(dataset), *unlabelled, *_repeated_paths(dataset)]
    items: list[Item] = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for item, problem in pool.map(_look_at, dataset.items):
            items.append(item)
            found += [problem] if problem else []
            on_progress(len(items), len(dataset))
    checked = replace(dataset, items=tuple(items))
    rejected = {problem.where for problem in found if problem.severity == "error"}
    found += _repeated_content([item for item in items if item.place not in rejected])
    return Report(tuple(found), checked)


def _look_at(item: Item) -> tuple[Item, Problem | None]:
    """Hash and decode one file; runs in threads, since both release the interpreter's lock."""
    try:
        data = read_file(item.path)
    except FileNotFoundError:
        return item, Problem(item.place, f"missing file {item.path}")
    except OSError as error:
        return item, Problem(item.place, f"{item.path} cannot be read: {error.strerror or error}")
    digest = hashlib.sha256(data).hexdigest()
    checked = replace(item, sha256=digest)
    try:
        decode(data)
    except ImageError as error:
        return checked, Problem(item.place, f"undecodable file {item.path}: {error}")
    if item.sha256 not in (None, digest):
        return checked, Problem(item.place, f"{item.path} has changed since its hash was recorded", "warning")
    return checked, None


def _repeated_paths(dataset: Dataset) -> list[Problem]:
    first: dict[Path, Item] = {}
    problems = []
    for item in dataset.items:
        path = Path(os.path.normpath(item.path.absolute()))
        other = first.setdefault(path, item)
        if other is not item:
            message = f"duplicate: {item.path} is also at {other.place}: put its labels on one line"
            problems.append(Problem(item.place, message))
            if set(item.labels) != set(other.labels):  # which labels are right?
                problems.append(Problem(other.place, f"duplicate: it has other labels at {item.place}"))
    return problems


def _repeated_content(items: Iterable[Item]) -> list[Problem]:
    first: dict[str | None, Item] = {}
    problems = []
    for item in items:
        other = first.setdefault(item.sha256, item)
        if other is item or item.sha256 is None:
            continue
        message = f"duplicate: same picture as {other.place}"
        if item.split != other.split and item.split and other.split:
            problems.append(Problem(item.place, f"{message}, which is in {other.split}, not {item.split}"))
        else:
            problems.append(Problem(item.place, message, "warning"))
    return problems
