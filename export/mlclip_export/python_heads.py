"""Heads that no graph can hold: a Triton Python model serves them, compared with torch as graphs are."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mlclip.heads import Head
from mlclip_export.parity import Arrays, Difference, differences_of


@dataclass(frozen=True)
class PythonHead:
    """What a Python model of a head consists of.

    Attributes:
        source: the module that becomes `model.py`.
        files: name to bytes, beside it.
        parameters: settings in the model's config.
    """

    source: ModuleType
    files: dict[str, bytes]
    parameters: dict[str, str]

    def contents(self) -> dict[str, Path | bytes]:
        """All files of the version's folder."""
        return {"model.py": Path(str(self.source.__file__)).read_bytes(), **self.files}


def python_head(head: Head) -> PythonHead | None:
    """The Python model of a head that has one; None for heads that become graphs."""
    model = head.python_model()
    if model is None:
        return None
    script = importlib.import_module(f"mlclip_export.served.{model.script}")
    return PythonHead(script, model.files, model.parameters)


def compare_python(
    model: str, served: PythonHead, scratch: Path, cases: Iterable[tuple[Arrays, Arrays]]
) -> list[Difference]:
    """Write a Python model's files into a folder, open them as Triton does, and compare each output with torch's.

    Args:
        model: its name in the repository.
        served: the model.
        scratch: an existing folder.
        cases: pairs of inputs and torch's outputs, both by name.
    """
    for name, content in served.files.items():
        (scratch / name).write_bytes(content)
    search: Any = served.source.open_search(scratch, served.parameters)
    return differences_of(model, ((search.answer(feeds["embedding"]), expected) for feeds, expected in cases))
