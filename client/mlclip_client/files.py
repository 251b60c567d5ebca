"""Files that are written: each takes an older file's place whole or not at all, and obeys the umask.

It is written beside its place, flushed to the disk, and renamed. Links are followed. Devices and pipes are written to,
never replaced.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

_DESCRIPTOR = re.compile(r"/dev/(std(out|err)|fd/\d+)|/proc/(self|\d+)/fd/\d+")
"""What the process has open already: writing there must not replace the file behind it."""
_LONGEST_NAME = 200


def is_stream(path: Path) -> bool:
    """Tell whether a path is a device, a pipe or a socket, which is written to, not replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or bool(_DESCRIPTOR.fullmatch(os.path.abspath(path)))


@contextlib.contextmanager
def replacing(path: Path, elsewhere: Callable[[], Path | None] = lambda: None) -> Iterator[BinaryIO]:
    """Open a file whose content durably replaces `path` when the block ends, unless the block raises.

    The file need not exist, but its folder must. `elsewhere` is called at the end, and may give another name in the
    same folder.
    """
    if is_stream(path):
        with path.open("ab") as stream:
            yield stream
        return
    target = behind_links(path)
    name = target.name if len(os.fsencode(target.name)) < _LONGEST_NAME else "part"
    temporary = target.with_name(f".{name}.{uuid4().hex}.tmp")  # process ids recur on other machines
    try:
        with temporary.open("xb") as file:
            yield file
        sync(temporary)
        temporary.replace(elsewhere() or target)
        sync(target.parent)  # so that the rename also survives a power failure
    finally:
        temporary.unlink(missing_ok=True)


def behind_links(path: Path) -> Path:
    """Give the file that a link leads to; the path itself if it is none."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network drives cannot flush folders
            raise
    finally:
        os.close(handle)
