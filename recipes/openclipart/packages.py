"""The files of Debian's `openclipart-svg` and `openclipart-png`: installed, in a folder, or fetched with apt."""

import shutil
import subprocess
from pathlib import Path

from mlclip.errors import DataError

PACKAGES = ("openclipart-svg", "openclipart-png")
COMMAND = ("apt-get", "download", *PACKAGES)
INSTALLED = Path("/usr/share/openclipart")


def find_tree(source: Path | None, work: Path) -> Path:
    """The folder that holds `svg/` and `png/`.

    `source` has both packages' `.deb` files or their content; by default it is the installed packages. Without these,
    both are fetched with `apt-get download` (156 MB) into `work`, and unpacked (330 MB).
    """
    if source is None:
        return INSTALLED if _is_tree(INSTALLED) else _unpack(_download(work), work)
    inside = [source, source / "openclipart", source / "share/openclipart", source / "usr/share/openclipart"]
    found = next(filter(_is_tree, inside), None)
    return found or _unpack(source, work)


def _is_tree(folder: Path) -> bool:
    return (folder / "svg").is_dir() and (folder / "png").is_dir()


def _download(work: Path) -> Path:
    if shutil.which(COMMAND[0]) is None:
        raise DataError(
            f"there is no apt-get: on a Debian machine run `{' '.join(COMMAND)}`, then give the folder: --from"
        )
    work.mkdir(parents=True, exist_ok=True)
    _run(*COMMAND, cwd=work)
    return work


def _unpack(folder: Path, work: Path) -> Path:
    archives = [next(iter(sorted(folder.glob(f"{name}_*.deb"))), None) for name in PACKAGES]
    if None in archives:
        raise DataError(f"{folder}: neither svg/ and png/ nor both packages are in it: run `{' '.join(COMMAND)}` there")
    work.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        _run("dpkg-deb", "--extract", str(archive), str(work))
    return work / "usr/share/openclipart"


def _run(*command: str, cwd: Path | None = None) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise DataError(f"there is no {command[0]}: unpack the packages on a Debian machine, use --from") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "").strip().splitlines() or ["without a message"]
        raise DataError(f"`{' '.join(command)}` failed: {said[-1]}") from error
