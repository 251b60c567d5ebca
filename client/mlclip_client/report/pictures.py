"""The bytes behind a row's path: a file, or a member of an archive."""

from __future__ import annotations

import threading
from pathlib import Path

from mlclip_client.errors import Unreadable
from mlclip_client.inputs import Found, InputOptions, Item, Reader, find_inputs
from mlclip_client.inputs.found import ARCHIVES
from mlclip_client.inputs.remote import is_address
from mlclip_client.report.thumbnails import local_reader
from mlclip_client.rows import printable


class Pictures:
    """Reads what rows name; may be called from several threads, and is to be closed. Nothing is downloaded.

    Args:
        root: folder that relative paths start from.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._local, self._reader = root, local_reader(root), Reader()
        self._lock = threading.Lock()
        self._archives: dict[Path, dict[str, Item]] = {}

    def __call__(self, path: str) -> bytes:
        """Give the bytes; raises BadImage."""
        if is_address(path):
            raise Unreadable("a report fetches nothing from addresses")
        place = self._split(path)
        if place is None:
            return self._local(path)
        archive, member = self._root / path[:place], path[place + 1 :]
        with self._lock:  # an archive is listed once
            if archive not in self._archives:
                items = find_inputs([str(archive)], InputOptions(), Found())
                self._archives[archive] = {printable(item.part): item for item in items}
        item = self._archives[archive].get(member)
        if item is None:
            raise Unreadable("the archive has no such member")
        return self._reader.read(item)

    def close(self) -> None:
        """Close what is open."""
        self._reader.close()

    def _split(self, path: str) -> int | None:
        """Where in a path an archive's own ends; None where it leads into none."""
        for place, letter in enumerate(path):
            if letter == "/" and path[:place].lower().endswith(ARCHIVES) and (self._root / path[:place]).is_file():
                return place
        return None
