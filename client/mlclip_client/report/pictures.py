"""The bytes behind a row's path: a file, a member of an archive, or a row of a manifest that holds images."""

from __future__ import annotations

import threading
from pathlib import Path

from mlclip_client.errors import Unreadable
from mlclip_client.inputs import InputOptions, Item, Reader, Skipped, find_inputs
from mlclip_client.inputs.names import format_of, is_address
from mlclip_client.output.rows import printable
from mlclip_client.report.thumbnails import local_reader


class Pictures:
    """Reads what rows name; may be called from several threads, and is to be closed. Nothing is downloaded.

    Args:
        root: folder that relative paths start from.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._local, self._reader = root, local_reader(root), Reader()
        self._lock = threading.Lock()
        self._containers: dict[Path, dict[str, Item]] = {}

    def __call__(self, path: str) -> bytes:
        """Give the bytes; raises BadImage."""
        if is_address(path):
            raise Unreadable("a report fetches nothing from addresses")
        place = self._split(path)
        if place is None:
            return self._local(path)
        container, part = self._root / path[:place], path[place + 1 :]
        with self._lock:  # a container is listed once
            if container not in self._containers:
                self._containers[container] = _listed(container)
        item = self._containers[container].get(part)
        if item is None:
            raise Unreadable(f"{container} has no such image")
        return self._reader.read(item)

    def close(self) -> None:
        """Close what is open."""
        self._reader.close()

    def _split(self, path: str) -> int | None:
        """Where in a path the name of an archive or a manifest ends; None where it leads into none."""
        for place, letter in enumerate(path):
            if letter == "/" and format_of(path[:place]) == "archive" and (self._root / path[:place]).is_file():
                return place
        manifest, _, row = path.rpartition(":")
        if row.isdecimal() and format_of(manifest) == "manifest" and (self._root / manifest).is_file():
            return len(manifest)
        return None


def _listed(container: Path) -> dict[str, Item]:
    """The images in an archive by name, or in a manifest by row."""
    try:
        items = list(find_inputs([str(container)], InputOptions(), Skipped()))
    except ValueError:  # a manifest whose column was named by hand
        return {}
    return {printable(item.member) if item.kind == "member" else item.path.rpartition(":")[2]: item for item in items}
