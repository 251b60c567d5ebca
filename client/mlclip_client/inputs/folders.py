"""Images in folders, here and in stores, found lazily and in a fixed order."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mlclip_client.inputs.formats import format_of
from mlclip_client.inputs.skipped import Skipped
from mlclip_client.inputs.stores import list_remote


def find_images(paths: Iterable[Path]) -> Iterator[Path]:
    """Give the files among some paths as they are, and the images below the folders; see `images_in`."""
    skipped, seen = Skipped(), set[tuple[int, int]]()
    for path in paths:
        yield from images_in(path, skipped, seen) if os.path.isdir(path) else (path,)


def images_in(folder: Path, skipped: Skipped, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Find the images below a folder: files with the suffix of an image, sorted by name, folder by folder.

    Links are followed, but each real folder is read once, so circles end. `seen` holds device and inode of those that
    were read, and grows.
    """
    open_folders = [(folder, iter(_entries(folder, skipped, seen)))]
    while open_folders:  # not by recursion: folders may be nested deeper than Python's stack
        parent, entries = open_folders[-1]
        for name, is_folder in entries:
            if is_folder:
                open_folders.append((parent / name, iter(_entries(parent / name, skipped, seen))))
                break
            if format_of(name) == "image":
                yield parent / name
            else:
                skipped.leave(name)
        else:
            open_folders.pop()


def images_in_store(address: str, skipped: Skipped) -> Iterator[str]:
    """Find the images below a folder of a store, as `images_in` does."""
    for name in list_remote(address, skipped.unreadable):
        if format_of(name) == "image":
            yield name
        else:
            skipped.leave(name)


def _entries(folder: Path, skipped: Skipped, seen: set[tuple[int, int]]) -> list[tuple[str, bool]]:
    """Name of every entry, and whether it is a folder; nothing for a folder that was seen or cannot be read."""
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            return []
        seen.add(identity)
        with os.scandir(folder) as listing:
            return sorted((entry.name, _is_folder(entry)) for entry in listing)
    except OSError as error:
        skipped.unreadable.append(f"{folder}: {error.strerror}")
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: it becomes a row when it is read
        return False
