"""Heads that no graph can hold: a Triton Python model serves them. It is compared with torch as graphs are."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mlclip.heads import Head
from mlclip_export.parity import Case, Difference, differences_of


@dataclass(frozen=True)
class PythonHead:
    """The Python model of a head."""

    source: ModuleType  # the module that becomes `model.py`
    files: dict[str, bytes]  # what lies beside it, by name
    parameters: dict[str, str]  # settings in the model's config

    def write(self, folder: Path) -> None:
        """Write all files of the version's folder."""
        shutil.copyfile(str(self.source.__file__), folder / "model.py")
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


def python_head(head: Head) -> PythonHead | None:
    """The Python model of a head that has one; None for heads that become graphs."""
    model = head.python_model()
    if model is None:
        return None
    script = importlib.import_module(f"mlclip_export.served.{model.script}")
    return PythonHead(script, model.files, model.parameters)


def compare_python(model: str, served: PythonHead, folder: Path, cases: Iterable[Case]) -> list[Difference]:
    """Open the files of a Python model in a folder as Triton does, and compare each output with torch's."""
    search: Any = served.source.open_search(folder, served.parameters)
    return differences_of(model, ((search.answer(feeds["embedding"]), expected) for feeds, expected in cases))
