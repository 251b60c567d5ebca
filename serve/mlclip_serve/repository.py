"""Check a model repository before Triton loads it, for errors that say what to do."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from mlclip_serve.errors import RepositoryError
from mlclip_serve.integrity import SUMS, find_damage

_FILES = {"onnxruntime": "model.onnx", "python": "model.py"}
"""The backends of the embedded Triton, and the file that a model of each needs."""
_LEAST_REGION = 1 << 20
"""Bytes of shared memory that Triton gives to each process of a model."""


@dataclass(frozen=True)
class Checked:
    """What a repository holds."""

    models: list[str]  # names of the models to load, sorted; without damaged ones and ensembles that need them
    damage: list[str]  # a line for each damaged model
    shared_memory: int  # bytes that the processes of the models need


def check_repository(repository: Path, config_name: str | None = None, cores: int = 1) -> Checked:
    """Raise RepositoryError if a repository is not complete enough to be loaded, or too damaged to serve anything.

    Folders that are hidden or have no config are no models: `.git`, `lost+found`, the work of an export.

    Models use `configs/<config_name>.pbtxt` if they have it, otherwise config.pbtxt. `cores` as in `link_models`.
    """
    if not repository.is_dir():
        raise RepositoryError(
            f"there is no model repository at {repository}: name another, or write one with mlclip-export"
        )
    paths = {
        folder.name: path
        for folder in sorted(repository.iterdir())
        if not folder.name.startswith(".")
        and (os.path.isfile(path := _config_file(folder, config_name)) or os.path.isfile(folder / SUMS))
    }
    if not paths:
        raise RepositoryError(f"the model repository {repository} holds no model: write one with mlclip-export")
    if config_name and not any((repository / name / "configs" / f"{config_name}.pbtxt").is_file() for name in paths):
        raise RepositoryError(f"no model in {repository} has a config named {config_name}: check --model-config-name")
    damaged = {name: damage for name in paths if (damage := find_damage(repository / name))}
    configs = {name: _read(path) for name, path in paths.items() if name not in damaged}
    lines = []
    for name, damage in damaged.items():
        users = [user for user, config in configs.items() if name in _steps(config)]
        lines.append(f"{damage}; not served: {', '.join(users or [name])}; export again")
    configs = {name: config for name, config in configs.items() if not damaged.keys() & _steps(config)}
    if lines and not any(map(_steps, configs.values())):
        raise RepositoryError(lines[0])
    for name, config in configs.items():
        if config.HasField("ensemble_scheduling"):
            _check_steps(repository / name, config, set(configs))
        else:
            _check_files(repository / name, config)
    return Checked(list(configs), lines, sum(_shared_memory(config, cores) for config in configs.values()))


def _config_file(folder: Path, config_name: str | None) -> Path:
    variant = folder / "configs" / f"{config_name}.pbtxt"
    return variant if config_name and os.path.isfile(variant) else folder / "config.pbtxt"


def _read(path: Path) -> Any:
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
        raise RepositoryError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def link_models(repository: Path, models: Iterable[str], folder: Path, cores: int) -> None:
    """Make a folder with links to a repository's models, since Triton takes every folder of its own for a model.

    A model whose config has the parameter `instances` with the value `cores` gets as many instances.
    """
    folder.mkdir()
    for name in models:
        path = repository / name / "config.pbtxt"
        config = _read(path) if path.is_file() else model_config_pb2.ModelConfig()
        if not _per_core(config):
            (folder / name).symlink_to(repository / name)
            continue
        (folder / name).mkdir()
        for entry in (repository / name).iterdir():
            (folder / name / entry.name).symlink_to(entry)
        for group in config.instance_group:
            group.count = cores
        (folder / name / path.name).unlink()
        (folder / name / path.name).write_text(text_format.MessageToString(config, as_utf8=True), encoding="utf-8")


def _per_core(config: Any) -> bool:
    return bool(config.parameters["instances"].string_value == "cores")


def _shared_memory(config: Any, cores: int) -> int:
    """Give the bytes that a model's processes need to exchange requests, each with the largest image that it takes."""
    if config.HasField("ensemble_scheduling"):
        return 0
    processes = cores if _per_core(config) else sum(max(1, group.count) for group in config.instance_group) or 1
    return int(processes * (_LEAST_REGION + int(config.parameters["max_bytes"].string_value or 0)))


def _steps(config: Any) -> set[str]:
    return {step.model_name for step in config.ensemble_scheduling.step}


def _check_steps(folder: Path, config: Any, known: set[str]) -> None:
    if not _versions(folder, config):
        raise RepositoryError(
            f"ensemble '{folder.name}' has no version: the empty folder {folder / '1'} is missing, which git and "
            "object stores drop: make it, or export again"
        )
    for name in sorted(_steps(config) - known):
        raise RepositoryError(f"ensemble '{folder.name}' needs the model '{name}', which is not in the repository")


def _check_files(folder: Path, config: Any) -> None:
    backend = config.backend or config.platform.removesuffix("_onnx")
    if backend not in _FILES:
        raise RepositoryError(
            f"model '{folder.name}' needs the backend '{backend}', which the embedded Triton does not have:"
            " serve it with NVIDIA's container, see `mlclip-serve --docker`"
        )
    file = config.default_model_filename or _FILES[backend]
    versions = _versions(folder, config)
    if not versions:
        raise RepositoryError(f"model '{folder.name}' has no version: {folder / '1' / file} is missing")
    for version in versions:
        if not (path := folder / str(version) / file).is_file():
            raise RepositoryError(f"model '{folder.name}' is incomplete: {path} is missing")


def _versions(folder: Path, config: Any) -> list[int]:
    """List the versions that Triton loads; by default the highest."""
    found = sorted(int(entry.name) for entry in folder.iterdir() if entry.is_dir() and entry.name.isdecimal())
    policy = config.version_policy
    if policy.HasField("specific"):
        return list(policy.specific.versions)
    if policy.HasField("all"):
        return found
    return found[-(policy.latest.num_versions or 1) :]
