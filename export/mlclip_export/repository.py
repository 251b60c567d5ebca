"""Models become folders of a Triton repository: versions, staging, and what is left alone.

A model's folder holds its config, its variants and one version. The version number rises when the content changes,
and the previous version is removed: all versions share one config, which would no longer fit the older ones. The
content's digest is in the config as `content_sha256`; a model with the same digest is not touched, unless its files
are no longer those that SHA256SUMS lists.

All changed models are assembled in a staging folder first. Each is then moved into place with two renames. Exports
into one repository wait for each other at the lock on its folder.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from mlclip.errors import ExportError
from mlclip.files import locked as locked_folder
from mlclip.files import sync_tree
from mlclip_export.checked import CheckedGraph
from mlclip_export.configs import to_text
from mlclip_export.facts import CONFIG, parameter, read_configs
from mlclip_export.gpu_variants import Stamp, stamped
from mlclip_export.tensorrt import Plan

SUMS = "SHA256SUMS"
"""Lists all files of a model's folder with their digests, as `sha256sum` writes and checks it."""
_DIGEST = "content_sha256"
_STAGING = ".mlclip-export-"
_ENSEMBLE = b"An ensemble has no files, but needs this folder.\n"
_UNSTAMPED = Stamp(0, "")


@dataclass(frozen=True)
class Model:
    """A model to be written."""

    # path in the model's folder to a ModelConfig message without a stamp; `config.pbtxt` is among them
    configs: Mapping[str, pb.ModelConfig]
    graph: CheckedGraph | None = None  # its files go into the version's folder
    files: Mapping[str, bytes] = field(default_factory=dict)  # what else goes there, by name
    beside: Mapping[str, bytes] = field(default_factory=dict)  # files in the model's folder, by name
    plan: Plan | None = None  # a TensorRT plan to build from the graph

    @property
    def name(self) -> str:
        """The model's name in the repository."""
        return str(self.configs[CONFIG].name)

    @property
    def uses(self) -> list[str]:
        """The models of an ensemble; it changes with each of them."""
        return sorted({step.model_name for step in self.configs[CONFIG].ensemble_scheduling.step})

    @property
    def contents(self) -> dict[str, Path | bytes]:
        """What goes into the version's folder, by name; a note where it would be empty, which git and S3 drop."""
        return {**(self.graph.files if self.graph else {}), **self.files} or {"README": _ENSEMBLE}


@dataclass(frozen=True)
class Written:
    """A model in the repository: the version that is served now, whether it has changed, and its size in bytes."""

    name: str
    version: int
    changed: bool
    size: int


@contextmanager
def _writing(repository: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(f"cannot write the model repository {repository}: {error}") from error


@contextmanager
def locked(repository: Path) -> Iterator[None]:
    """Make a repository's folder if it does not exist, and keep other exports waiting; raises ExportError."""
    with ExitStack() as stack:
        with _writing(repository):
            repository.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # NFS has no locks of folders
            stack.enter_context(locked_folder(repository))
        yield


def write_models(repository: Path, models: Sequence[Model]) -> list[Written]:
    """Write models, each after those that it uses, into a `locked` repository; raises ExportError.

    Models whose content is there already stay as they are; a folder of that name that is not mlclip's is refused.
    """
    with _writing(repository):
        for left_over in repository.glob(f"{_STAGING}*"):
            shutil.rmtree(left_over)
        with tempfile.TemporaryDirectory(prefix=_STAGING, dir=repository) as staging:
            changed = _stage(repository, models, Path(staging))
            sync_tree(Path(staging))
            for name in changed:
                _swap(repository / name, Path(staging) / name, Path(staging) / f"{name}.before")
    return [_written(repository / model.name, model.name in changed) for model in models]


def remove_models(repository: Path, keep: Iterable[str]) -> list[str]:
    """Remove all models but `keep` that mlclip wrote into a `locked` repository, and return their names."""
    stale = sorted(set(read_configs(repository)) - set(keep))
    with _writing(repository):
        for name in stale:
            shutil.rmtree(repository / name)
    return stale


def latest_version(folder: Path) -> Path:
    """Give the folder of a model's highest version."""
    return folder / str(_version(folder))


def _stage(repository: Path, models: Sequence[Model], staging: Path) -> list[str]:
    before = read_configs(repository)
    digests = {name: parameter(config, _DIGEST) for name, config in before.items()}
    changed: list[str] = []
    for model in models:
        folder = repository / model.name
        if folder.exists() and model.name not in before and not (folder / SUMS).exists():
            raise ExportError(f"{folder} was not written by mlclip-export: remove it, or give the head another --name")
        digest = _digest(model, digests)
        version = _version(folder)
        if digest != digests.get(model.name) or not _intact(folder):
            changed.append(model.name)
            _assemble(model, staging / model.name, Stamp(version + 1, digest[:8]), digest)
        digests[model.name] = digest
    return changed


def _digest(model: Model, digests: Mapping[str, str]) -> str:
    total = hashlib.sha256(f"{model.plan.key if model.plan else ''}\n".encode())
    for name, config in sorted(model.configs.items()):
        total.update(f"{name}\n{to_text(stamped(config, _UNSTAMPED))}\n".encode())
    for name, content in sorted({**model.contents, **model.beside}.items()):
        total.update(f"{name} {_sha256(content)}\n".encode())
    for name in model.uses:
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
    for name, content in model.contents.items():
        if isinstance(content, bytes):
            (version / name).write_bytes(content)
        else:
            shutil.copyfile(content, version / name)
    for name, content in model.beside.items():
        (folder / name).write_bytes(content)
    for name, config in model.configs.items():
        complete = stamped(config, stamp)
        complete.parameters[_DIGEST].string_value = digest
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(to_text(complete), encoding="utf-8")
    if model.plan is not None:
        model.plan.build(version)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{_sha256(path)}  {path.relative_to(folder)}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


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
    return max((int(path.name) for path in folder.glob("*") if path.is_dir() and path.name.isdecimal()), default=0)


def _intact(folder: Path) -> bool:
    """Tell whether a model's files are those that were written."""
    with suppress(OSError, ValueError):
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        return all(_sha256(folder / name) == digest for digest, name in (line.split("  ", 1) for line in lines))
    return False


def _written(folder: Path, changed: bool) -> Written:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Written(folder.name, _version(folder), changed, size)
