"""Output files of all commands: which may be written, and how they are opened."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from uuid import uuid4

_DESCRIPTOR = re.compile(r"/dev/(std(out|err)|fd/\d+)|/proc/(self|\d+)/fd/\d+")
"""What the process has open already: writing there must not replace the file behind it."""


def check_output(out: str | Path, *suffixes: str) -> None:
    """Raise ValueError if an output cannot be written: called before any work.

    Args:
        out: a path, or `-` for stdout.
        suffixes: of the formats that can be written; a device or a pipe may have any name.
    """
    if str(out) == "-":
        if sys.stdout is None:
            raise ValueError(f"--out - stands for stdout, which is closed: write to a {' or '.join(suffixes)} file")
        return
    path = Path(out)
    if is_stream(path):
        if not os.access(path, os.W_OK):
            raise ValueError(f"--out {path}: no permission to write to it")
        return
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"--out {path}: write to a {' or '.join(suffixes)} file")
    folder = _behind_links(path).parent
    if path.is_dir():
        raise ValueError(f"--out {path}: this is a folder")
    if not folder.is_dir():
        raise ValueError(f"--out {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--out {path}: no permission to write into {folder}")


def is_stream(path: Path) -> bool:
    """Tell whether a path is a device, a pipe or a socket, which is written to, not replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or bool(_DESCRIPTOR.fullmatch(os.path.abspath(path)))


def partial_name(out: str) -> str:
    """Name the file with the rows of an interrupted run: `labels.partial.parquet` for `labels.parquet`."""
    path = Path(out)
    if out == "-" or is_stream(path):
        return out
    path = _behind_links(path)
    return str(path.with_name(f"{path.stem}.partial{path.suffix}"))


@contextlib.contextmanager
def open_output(path: Path, elsewhere: Callable[[], Path | None] = lambda: None) -> Iterator[IO[bytes]]:
    """Open a file whose content durably replaces `path` when the block ends, unless the block raises.

    A device or a pipe is written to at once. A symbolic link stays; the file that it leads to is replaced.

    Args:
        path: a file, which need not exist.
        elsewhere: called at the end; may give another name in the same folder.
    """
    if is_stream(path):
        with path.open("ab") as stream:
            yield stream
        return
    target = _behind_links(path)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}.tmp")  # process ids recur on other machines
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(elsewhere() or target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # so that the rename also survives a power failure
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def _behind_links(path: Path) -> Path:
    return Path(os.path.realpath(path)) if path.is_symlink() else path
