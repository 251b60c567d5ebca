"""COCO annotations (`instances_*.json`): an image's labels are the categories of its annotations.

Format: https://cocodataset.org/#format-data. Boxes and masks are not read; crowd annotations count.
"""

import codecs
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from mlclip_client.lines import parse_json
from mlclip_client.names import local_file

from mlclip.data.dataset import Item
from mlclip.data.problems import Problem
from mlclip.data.rows import as_path, clean_label, whole
from mlclip.data.text_files import opened
from mlclip.errors import DataError

KEYS = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}


def read_coco(path: Path, images: Path | None = None) -> tuple[list[Item], tuple[str, ...], list[Problem]]:
    """Read one annotations file: the items, also those without annotations; the categories by id; the problems.

    The usual layout, `annotations/instances_val2017.json` beside `val2017/`, is found without `images`; otherwise file
    names start from the JSON file's folder. The name also tells the split: train, val or test.
    """
    content = _load(path)
    problems: list[Problem] = []
    names = _categories(path, content["categories"])
    labels: dict[object, set[object]] = defaultdict(set)
    known = {image["id"] for image in content["images"]}
    for annotation in content["annotations"]:
        image, category = annotation["image_id"], annotation["category_id"]
        name = f"annotation {annotation.get('id', '?')}"
        if image not in known:
            problems.append(Problem(f"{path}: {name}", f"there is no image {image!r}"))
        elif category not in names:
            problems.append(Problem(f"{path}: image {image}", f"{name}: there is no category {category!r}"))
        else:
            labels[image].add(category)
    named = re.fullmatch(r"instances_(train|val|test)\d*", path.stem)
    root, split, items = images or _image_folder(path), named and named[1], []
    for position, image in enumerate(content["images"]):
        where = f"{path}: image {image['id']}"
        try:
            if image["id"] not in known:
                raise DataError(f"images[{position}] has the same id: give each its own")
            file = Path(as_path(local_file(str(image["file_name"]), str(root))))
        except DataError as error:
            problems.append(Problem(where, str(error)))
            continue
        known.remove(image["id"])
        own = tuple(name for category, name in names.items() if category in labels[image["id"]])
        items.append(Item(file, own, split=split, where=where))
    return items, tuple(names.values()), problems


def _load(path: Path) -> dict[str, list[dict[str, Any]]]:
    with opened(path) as file:
        content = parse_json(file.read().removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape"))
    for part, keys in KEYS.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"{path}: not COCO instances: it has no list {part!r}")
        for position, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise DataError(f"{path}: {part}[{position}] must hold {' and '.join(keys)}")
            entry.update({key: whole(entry.get(key)) for key in keys})
            if wrong := [key for key in keys if not isinstance(entry[key], (int, str))]:
                raise DataError(f"{path}: {part}[{position}] needs {wrong[0]}, a number or a text")
    return dict(content)


def _categories(path: Path, categories: list[dict[str, Any]]) -> dict[object, str]:
    names: dict[object, str] = {}
    for category in sorted(categories, key=lambda category: (str(type(category["id"])), category["id"])):
        try:
            name = clean_label(str(category["name"]))
        except DataError as error:
            raise DataError(f"{path}: category {category['id']}: {error}") from None
        if not name or category["id"] in names or name in names.values():
            raise DataError(f"{path}: category {category['id']}: id or name {name!r} is empty or taken: rename it")
        names[category["id"]] = name
    return names


def _image_folder(path: Path) -> Path:
    beside = path.parent.parent / path.stem.removeprefix("instances_")
    return beside if path.stem.startswith("instances_") and beside.is_dir() else path.parent
