"""From the paths of a command line to image files, lazily and in a fixed order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from mlclip_client.pixels import formats


@dataclass
class Walk:
    """Counts what a walk passed by; complete when the walk has ended.

    Attributes:
        left_alone: files in folders whose suffix is not one of an image.
        unreadable: folders that could not be listed, with the reason.
    """

    left_alone: int = 0
    unreadable: list[str] = field(default_factory=list)


def image_suffixes() -> frozenset[str]:
    """Give the suffixes, with dot and in lower case, of the formats that `pixels` reads."""
    known = set(formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def find_images(paths: Iterable[Path], walk: Walk) -> Iterator[Path]:
    """Find the images below some paths.

    A file that is named is always taken. In folders, files with an image suffix are taken, sorted by name,
    folder by folder; links are followed, but each real folder is read once, so circles end.

    Args:
        paths: files and folders.
        walk: receives the counts.
    """
    suffixes = image_suffixes()
    seen: set[tuple[int, int]] = set()
    for path in paths:
        if path.is_dir():
            yield from _walk(path, suffixes, seen, walk)
        else:
            yield path


def _walk(folder: Path, suffixes: frozenset[str], seen: set[tuple[int, int]], walk: Walk) -> Iterator[Path]:
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            return
        seen.add(identity)
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        walk.unreadable.append(f"{folder}: {error.strerror}")
        return
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir():
            yield from _walk(path, suffixes, seen, walk)
        elif path.suffix.lower() in suffixes:
            yield path
        else:
            walk.left_alone += 1
