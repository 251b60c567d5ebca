"""From the paths of a command line to image files, lazily and in a fixed order."""

from __future__ import annotations

import functools
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
        left_alone: files whose suffix is not one of an image, in folders and archives.
        unreadable: folders that could not be listed, with the reason.
    """

    left_alone: int = 0
    unreadable: list[str] = field(default_factory=list)

    def leave(self, name: str) -> None:
        """Count a file that is left alone."""
        self.left_alone += 1


@functools.cache
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
    seen: set[tuple[int, int]] = set()
    for path in paths:
        if os.path.isdir(path):
            yield from find_in_folder(path, walk, seen)
        else:
            yield path


def find_in_folder(folder: Path, walk: Walk, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Find the images below one folder; see `find_images`.

    Args:
        folder: where to look.
        walk: receives the counts.
        seen: device and inode of the folders that were read already; grows.
    """
    suffixes = image_suffixes()
    open_folders = [(folder, iter(_entries(folder, walk, seen)))]
    while open_folders:  # not by recursion: folders may lie deeper than Python's stack is high
        parent, entries = open_folders[-1]
        for name, is_folder in entries:
            path = parent / name
            if is_folder:
                open_folders.append((path, iter(_entries(path, walk, seen))))
                break
            if path.suffix.lower() in suffixes:
                yield path
            else:
                walk.leave(name)
        else:
            open_folders.pop()


def _entries(folder: Path, walk: Walk, seen: set[tuple[int, int]]) -> list[tuple[str, bool]]:
    """Name of every entry, and whether it is a folder; nothing for a folder seen before or not readable."""
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            return []
        seen.add(identity)
        with os.scandir(folder) as listing:
            return sorted((entry.name, _is_folder(entry)) for entry in listing)
    except OSError as error:
        walk.unreadable.append(f"{folder}: {error.strerror}")
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: it becomes a row when it is read
        return False
