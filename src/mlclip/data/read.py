"""The entrance: a folder, a manifest or COCO annotations become one dataset."""

import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypedDict, Unpack

from mlclip_client.lines import read_lines, too_long
from mlclip_client.names import is_sidecar

from mlclip.data.coco import read_coco
from mlclip.data.dataset import SPLITS, Dataset, Item
from mlclip.data.label_studio import is_task_list
from mlclip.data.manifest import read_manifest
from mlclip.data.problems import Problem
from mlclip.data.rows import clean_label
from mlclip.data.text_files import opened
from mlclip.errors import DataError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
LABELS_FILES = (
    *(f"{name}{suffix}" for name in ("manifest", "labels") for suffix in (".jsonl", ".csv", ".parquet")),
    "metadata.jsonl",
)
"""What is looked for in a folder when no labels file is named."""

Source = str | Path
"""A folder with images and a labels file, a manifest (`.csv`, `.tsv`, `.jsonl`, `.parquet`), COCO annotations or an
export of Label Studio (`.json`); `train=PATH`, `val=PATH` and `test=PATH` set the split of all its images."""


class ReadOptions(TypedDict, total=False):
    """How sources are read."""

    labels: Path | None  # the labels file of a folder; by default one of `LABELS_FILES` inside it
    images: Path | None  # folder that image paths start from; by default the manifest's own
    # a file with one class per line, or the names: these classes, in this order, and no others. By default COCO's
    # categories by id, otherwise all labels by name.
    classes: Path | Sequence[str] | None
    separator: str  # between labels that come as one string; by default `|`


def read_dataset(*sources: Source, **options: Unpack[ReadOptions]) -> Dataset:
    """Read sources without faults, such as `mlclip data` writes them. Image files are not opened: `validate` does that.

    Raises DataError if anything is wrong; the message gives the line.
    """
    dataset, problems = scan(*sources, **options)
    errors = [problem for problem in (*problems, *unknown_labels(dataset)) if problem.severity == "error"]
    if errors:
        rest = f" (and {len(errors) - 1:,} more: `mlclip data read` lists them all)" if len(errors) > 1 else ""
        raise DataError(f"{errors[0].where}: {errors[0].message}{rest}")
    if not dataset.items:
        raise DataError(f"{', '.join(map(str, sources))}: there is no image in it")
    return dataset


def scan(*sources: Source, **options: Unpack[ReadOptions]) -> tuple[Dataset, list[Problem]]:
    """Read sources as far as possible, and report the rest as problems."""
    if unknown := options.keys() - ReadOptions.__annotations__.keys():
        raise TypeError(f"reading has no option {', '.join(sorted(unknown))}: {', '.join(ReadOptions.__annotations__)}")
    labels, images, classes = options.get("labels"), options.get("images"), options.get("classes")
    separator = options.get("separator", "|")
    if not separator:
        raise DataError("the separator between labels must not be empty")
    given = [parse_source(source) for source in sources]
    if len({path.absolute() for path, _ in given}) < len(given):
        raise DataError("a source is named twice: name each once")
    if labels is not None and len(given) > 1:
        raise DataError("a labels file goes with one folder: name one source, or put labels files into the folders")
    items: list[Item] = []
    problems: list[Problem] = []
    orders: list[tuple[str, ...] | None] = []
    for path, split in given:
        found, order, wrong = _read_source(path, labels, images, separator, split)
        items += [replace(item, split=split) for item in found] if split else found
        orders.append(order)
        problems += wrong
    names = _read_classes(classes) if classes is not None else _merge_classes(orders, items)
    return Dataset(tuple(items), names), problems


def parse_source(source: Source) -> tuple[Path, str | None]:
    """Split `val=PATH` into the path and the split; a path that exists as written is left alone."""
    name, _, rest = str(source).partition("=")
    if isinstance(source, str) and name in SPLITS and rest and not Path(source).exists():
        return Path(rest), name
    return Path(source), None


def input_files(source: Source) -> list[Path]:
    """The files that a source is read from, except images: none of them is an output, too."""
    path, _ = parse_source(source)
    return [path, *(path / name for name in LABELS_FILES if path.is_dir())]


def unknown_labels(dataset: Dataset) -> list[Problem]:
    """An error for every label that is none of the dataset's classes, with a similar class if there is one."""
    known = frozenset(dataset.classes)

    @cache
    def hint(label: str) -> str:
        near = difflib.get_close_matches(label, dataset.classes, n=1)
        return f": is it {near[0]!r}?" if near else ""

    return [
        Problem(item.place, f"unknown label {label!r}{hint(label)}")
        for item in dataset.items
        for label in item.labels
        if label not in known
    ]


def _read_source(
    path: Path, labels: Path | None, images: Path | None, separator: str, split: str | None
) -> tuple[list[Item], tuple[str, ...] | None, list[Problem]]:
    if path.is_dir():
        items, problems = read_manifest(labels or _labels_file(path), images or path, separator, split)
        named = {item.path for item in items} | {problem.path for problem in problems}
        return items, None, problems + _unlisted(path, named)
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if labels is not None:
        raise DataError(f"{path}: a labels file goes with a folder of images, and this is a file")
    if path.suffix.lower() == ".json" and not is_task_list(path):
        return read_coco(path, images)
    items, problems = read_manifest(path, images or path.parent, separator, split)
    return items, None, problems


def _labels_file(folder: Path) -> Path:
    found = [name for name in LABELS_FILES if (folder / name).is_file()]
    if not found:
        raise DataError(f"{folder}: no labels file in it ({', '.join(LABELS_FILES)}): name one with --labels")
    if len(found) > 1:
        raise DataError(f"{folder}: it holds {' and '.join(found)}: name the one to use with --labels")
    return folder / found[0]


def _unlisted(folder: Path, named: Collection[Path | None]) -> list[Problem]:
    files = (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and not is_sidecar(file.name))
    return [
        Problem(str(file), "left out: no line of the labels file that could be read names it", "warning")
        for file in sorted(files)
        if file not in named
    ]


def _read_classes(classes: Path | Sequence[str]) -> tuple[str, ...]:
    names: dict[str, int] = {}
    for number, line in _lines_of(classes) if isinstance(classes, Path) else enumerate(classes, start=1):
        place = f"{classes}:{number}" if isinstance(classes, Path) else f"class {number}"
        try:
            name = clean_label(line)
        except DataError as error:
            raise DataError(f"{place}: {error}") from None
        if name in names:
            raise DataError(f"{place}: {name!r} is already at {names[name]}: remove one")
        if name:
            names[name] = number
    if not names:
        raise DataError("no class is named: write one per line")
    return tuple(names)


def _lines_of(path: Path) -> Iterator[tuple[int, str]]:
    with opened(path) as file:
        for line in read_lines(file):
            if line.data is None:
                raise DataError(f"{path}:{line.number}: {too_long()}")
            yield line.number, line.data.decode("utf-8", "surrogateescape")


def _merge_classes(orders: Sequence[tuple[str, ...] | None], items: Sequence[Item]) -> tuple[str, ...]:
    """The order that all sources agree on; otherwise every name, sorted."""
    if orders and orders[0] is not None and all(order == orders[0] for order in orders):
        return orders[0]
    named = {name for order in orders if order for name in order}
    return tuple(sorted(named.union(label for item in items for label in item.labels)))
