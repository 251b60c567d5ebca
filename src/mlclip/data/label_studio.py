"""Label Studio's JSON export (https://labelstud.io/guide/export) as rows of a manifest."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from mlclip_client.lines import Fields, parse_json
from mlclip_client.names import LABEL_STUDIO_FILES

from mlclip.data.text_files import opened


def is_task_list(path: Path) -> bool:
    """Whether a JSON file is a list, as Label Studio exports it, and not an object, as COCO's annotations are."""
    with opened(path) as file:
        return file.read(64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def label_studio_rows(path: Path, root: Path) -> Iterator[tuple[int, Fields]]:
    """Tasks with an annotation: the path of `data.path` or `data.image`, and the choices of the latest annotation."""
    with opened(path) as file:
        tasks = parse_json(file.read().removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape"))
    for number, task in enumerate(tasks, start=1):
        try:
            done = [one for one in task["annotations"] if not one.get("was_cancelled")]
            if done:
                latest = max(done, key=lambda one: str(one.get("updated_at", "")))
                parts = [part["value"]["choices"] for part in latest["result"] if part.get("type") == "choices"]
                image = task["data"].get("path") or task["data"]["image"]
                image = f"/{image.removeprefix(LABEL_STUDIO_FILES)}" if image.startswith(LABEL_STUDIO_FILES) else image
                yield number, {"path": image, "labels": [choice for part in parts for choice in part]}
        except (KeyError, TypeError, AttributeError) as error:
            yield number, f"not a task of Label Studio's JSON export: {type(error).__name__} {error}"
