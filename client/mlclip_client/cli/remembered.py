"""What a job remembers of the command that began it: the defaults of commands that continue it."""

import json
import os
from pathlib import Path
from typing import Any

import typer

from mlclip_client.names import is_address

_OWN = frozenset("paths job kind log debug metrics_port metrics_host engine ray_address ray_workers".split())
"""Options that each command has for itself."""


def options_of(context: typer.Context) -> dict[str, Any]:
    """The options of a command that a job remembers, as plain JSON values; a proxy with a password is left out."""
    kept = {name: value for name, value in context.params.items() if name not in _OWN}
    if "@" in (kept.get("proxy") or ""):
        del kept["proxy"]
    if kept.get("out") not in (None, "-"):
        kept["out"] = Path(kept["out"])
    return {name: os.fspath(value.absolute()) if isinstance(value, Path) else value for name, value in kept.items()}


def as_begun(context: typer.Context, job: Path | None) -> Path | None:
    """Make the options of a job that has begun the defaults of this command: the callback of the job's folder."""
    if job is not None:
        context.default_map = dict(_begun(job).get("options", {}))
    return job


def inputs_of(job: Path | None) -> list[str]:
    """Give the names of inputs that a job was begun with; none if it has not begun."""
    known = {} if job is None else _begun(job)
    names = [name for name in known.get("inputs", ()) if name != "-"]
    return [name if is_address(name) else os.path.join(known["folder"], name) for name in names]


def _begun(job: Path) -> dict[str, Any]:
    """What a job has stored; empty if that cannot be read, which opening the job reports."""
    try:
        return dict(json.loads((job / "job.json").read_text(encoding="utf-8", errors="surrogateescape")))
    except (OSError, ValueError, TypeError):
        return {}


def given(context: typer.Context, *names: str) -> list[str]:
    """Which of these options are on the command line, as `--name`."""
    found = {name: context.get_parameter_source(name) for name in names}
    return [f"--{name.replace('_', '-')}" for name, source in found.items() if source and source.name == "COMMANDLINE"]
