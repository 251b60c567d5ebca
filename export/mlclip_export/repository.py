"""Models become folders of a Triton repository: versions, staging, and what is left alone.

A model's folder holds its config, its variants and one version. The version counts up when the content changes,
and the folder of the version before goes: all versions share one config, so an old one would not fit it any more.
The content's digest lies in the config as `content_sha256`; where it is the same, nothing is touched.

All changed models are put together in a staging folder first, then each is moved into place with two renames. One
export at a time does so: the others wait for the lock on the repository's folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlclip.errors import ExportError
from mlclip_export.accelerators import Stamp
from mlclip_export.configs import to_text
from mlclip_export.facts import parameter, read_configs

CONFIG = "config.pbtxt"
_DIGEST = "content_sha256"
_STAGING = ".mlclip-export-"


@dataclass(frozen=True)
class Model:
    """A model to be written.

    Attributes:
        name: its name in the repository.
        configs: makes the ModelConfig messages for a version: path in the model's folder to message.
        files: path in the version's folder to a file's place or bytes.
        beside: path in the model's folder to bytes.
        uses: names of the models it is an ensemble of; where one of them changes, so does it.
        finish: called with the staged version folder, to add files that others cannot reproduce (TensorRT plans).
        finish_key: what `finish` depends on besides the files.
    """

    name: str
    configs: Callable[[Stamp], Mapping[str, Any]]
    files: Mapping[str, Path | bytes] = field(default_factory=dict)
    beside: Mapping[str, bytes] = field(default_factory=dict)
    uses: tuple[str, ...] = ()
    finish: Callable[[Path], None] | None = None
    finish_key: str = ""


@dataclass(frozen=True)
class Written:
    """What became of a model.

    Attributes:
        name: the model.
        version: the version that is served now.
        changed: whether it was written anew.
        size: bytes of its folder.
    """

    name: str
    version: int
    changed: bool
    size: int


@contextmanager
def locked(repository: Path) -> Iterator[None]:
    """Make a repository's folder where it does not exist, and let other exports into it wait.

    Raises:
        ExportError: it cannot be made.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        handle = os.open(repository, os.O_RDONLY)
    except OSError as error:
        raise ExportError(f"cannot write the model repository {repository}: {error}") from error
    try:
        with suppress(OSError):  # NFS has no locks of folders
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_models(repository: Path, models: Sequence[Model]) -> list[Written]:
    """Bring models into a repository; those whose content is there already stay as they are. Call it `locked`.

    Args:
        repository: the folder.
        models: each after the models that it uses.

    Raises:
        ExportError: a folder of that name is not mlclip's, or the repository cannot be written.
    """
    try:
        for left_over in repository.glob(f"{_STAGING}*"):
            shutil.rmtree(left_over)
        with tempfile.TemporaryDirectory(prefix=_STAGING, dir=repository) as staging:
            changed = _stage(repository, models, Path(staging))
            for name in changed:
                _swap(repository / name, Path(staging) / name, Path(staging) / f"{name}.before")
    except OSError as error:
        raise ExportError(f"cannot write the model repository {repository}: {error}") from error
    return [_written(repository / model.name, model.name in changed) for model in models]


def remove_models(repository: Path, keep: Iterable[str]) -> list[str]:
    """Remove the models that mlclip wrote earlier and that nothing needs any more; give their names. Call it `locked`.

    Raises:
        ExportError: the repository cannot be written.
    """
    stale = sorted(set(read_configs(repository)) - set(keep))
    try:
        for name in stale:
            shutil.rmtree(repository / name)
    except OSError as error:
        raise ExportError(f"cannot write the model repository {repository}: {error}") from error
    return stale


def latest_version(folder: Path) -> Path:
    """Give the folder of a model's highest version."""
    return folder / str(_version(folder))


def _stage(repository: Path, models: Sequence[Model], staging: Path) -> list[str]:
    """Put changed models together in the staging folder; give their names."""
    before = read_configs(repository)
    digests = {name: parameter(config, _DIGEST) for name, config in before.items()}
    changed: list[str] = []
    for model in models:
        folder = repository / model.name
        if folder.exists() and model.name not in before:
            raise ExportError(f"{folder} was not written by mlclip-export: remove it, or give the head another --name")
        digest = _digest(model, digests)
        version = _version(folder)
        if digest != digests.get(model.name) or not _complete(folder / str(version), model):
            changed.append(model.name)
            _assemble(model, staging / model.name, Stamp(version + 1, digest[:8]), digest)
        digests[model.name] = digest
    return changed


def _digest(model: Model, digests: Mapping[str, str]) -> str:
    total = hashlib.sha256(f"{model.finish_key}\n".encode())
    for name, config in sorted(model.configs(Stamp(0, "")).items()):
        total.update(f"{name}\n{to_text(config)}\n".encode())
    for name, content in sorted({**model.files, **model.beside}.items()):
        total.update(f"{name} {_sha256(content)}\n".encode())
    for name in sorted(model.uses):
        total.update(f"{name} {digests[name]}\n".encode())
    return total.hexdigest()


def _sha256(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _assemble(model: Model, folder: Path, stamp: Stamp, digest: str) -> None:
    version = folder / str(stamp.version)
    version.mkdir(parents=True)
    for name, content in model.files.items():
        if isinstance(content, bytes):
            (version / name).write_bytes(content)
        else:
            shutil.copyfile(content, version / name)
    for name, content in model.beside.items():
        (folder / name).write_bytes(content)
    for name, config in model.configs(stamp).items():
        config.parameters[_DIGEST].string_value = digest
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(to_text(config), encoding="utf-8")
    if model.finish is not None:
        model.finish(version)


def _swap(folder: Path, staged: Path, before: Path) -> None:
    with suppress(FileNotFoundError):
        folder.rename(before)
    try:
        staged.rename(folder)
    except OSError:
        with suppress(FileNotFoundError):
            before.rename(folder)
        raise


def _version(folder: Path) -> int:
    """Give the highest version in a model's folder; 0 where there is none."""
    return max((int(path.name) for path in folder.glob("*") if path.is_dir() and path.name.isdecimal()), default=0)


def _complete(version: Path, model: Model) -> bool:
    """Tell whether a model's files are still there as they were written."""
    wanted = {version / name: content for name, content in model.files.items()}
    wanted |= {version.parent / name: content for name, content in model.beside.items()}
    configs = [version.parent / name for name in model.configs(Stamp(0, ""))]
    return (
        version.is_dir()
        and all(path.is_file() for path in (*wanted, *configs))
        and all(_sha256(path) == _sha256(content) for path, content in wanted.items())
    )


def _written(folder: Path, changed: bool) -> Written:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Written(folder.name, _version(folder), changed, size)
