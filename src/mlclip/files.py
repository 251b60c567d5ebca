"""Files and folders on disk, read and written: nothing is replaced before what takes its place is whole."""

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mlclip_client.files import is_stream, replacing, sync

from mlclip.errors import OutputError


def read_file(path: Path) -> bytes:
    """The content of a file; raises OSError, as `check_file`."""
    check_file(path)
    return path.read_bytes()


def check_file(path: Path) -> None:
    """Raise OSError for what does not exist, and for a pipe or device, which may have no end."""
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # NUL in its name
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines, which bring their own ends, as UTF-8; the file appears whole or not at all. Makes its folder.

    Raises OSError. What is no UTF-8 in the name of a file becomes an escape, as JSON has it.
    """
    Path(os.path.realpath(path)).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.writelines(line.encode("utf-8", "backslashreplace") for line in lines)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that lock a folder waiting while the block runs; raises OSError if there is no folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # NFS has no locks of folders
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def replacing_files(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield an empty folder whose contents take the places of all `names` in `folder` at the end, or of none.

    The first of the names goes first and comes last: a reader that needs it never takes old and new files for one set.
    Other files in the folder stay. Raises OSError.
    """
    folder = Path(os.path.realpath(folder))
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".mlclip-", dir=folder) as staging:
            new, old = Path(staging, "new"), Path(staging, "old")
            new.mkdir()
            old.mkdir()
            yield new
            sync_tree(new)
            gone = [(folder / name, old / name) for name in names]
            _rename_all([*gone, *((new / name, folder / name) for name in reversed(names))])
            sync(folder)
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise


def check_output(
    path: Path, inputs: Iterable[Path | str] = (), suffixes: Sequence[str] = (), option: str = "--out"
) -> None:
    """Refuse a file, or without `suffixes` a folder, that cannot be written or is an input; raises OutputError.

    Commands call it before any work. Devices and pipes need none of the suffixes.
    """
    if any(os.path.exists(given) and path.exists() and os.path.samefile(given, path) for given in inputs):
        raise OutputError(f"{path} is an input and would be overwritten: name another {option}")
    if is_stream(path):
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise OutputError(f"{path}: it is written as {suffixes[0]}: name it {option} {path.with_suffix(suffixes[0])}")
    if path.exists() and path.is_dir() == bool(suffixes):
        raise OutputError(f"{path} is a {'folder' if suffixes else 'file'}: name another {option}")
    place = Path(os.path.realpath(path))
    place = next(folder for folder in ((place, *place.parents)[bool(suffixes) :]) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        reason = "permission denied" if place.is_dir() else "it is a file"
        raise OutputError(f"{path}: cannot write into {place}: {reason}")


def sync_tree(folder: Path) -> None:
    """Flush a folder with all that is in it to the disk; raises OSError."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def _rename_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename what exists, in order; an error takes back what was done."""
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            if os.path.lexists(source):
                source.rename(target)
                done.append((source, target))
    except OSError:
        for source, target in reversed(done):
            target.rename(source)
        raise
