"""Heads that no graph can hold: a Triton Python model serves them. It is compared with torch as graphs are."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlclip.heads import PythonModel
from mlclip_export.parity import Case, Difference, differences_of


def write_python(served: PythonModel, folder: Path) -> None:
    """Write all files of the version's folder."""
    shutil.copyfile(_script(served).__file__, folder / "model.py")
    for name, content in served.files.items():
        (folder / name).write_bytes(content)


def compare_python(model: str, served: PythonModel, folder: Path, cases: Iterable[Case]) -> list[Difference]:
    """Open the files of a Python model in a folder as Triton does, and compare each output with torch's."""
    search = _script(served).open_search(folder, served.parameters)
    return differences_of(model, ((search.answer(feeds["embedding"]), expected) for feeds, expected in cases))


def _script(served: PythonModel) -> Any:
    return importlib.import_module(f"mlclip_export.served.{served.script}")
