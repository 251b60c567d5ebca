"""Triton Python model: names and labels of the references behind an answer.

The export copies this file to `references_<head>/<version>/model.py` with the run's `references.jsonl` beside it. It
runs on Python 3.10 and needs numpy.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

try:
    import triton_python_backend_utils as pb_utils
except ModuleNotFoundError:  # outside Triton, only what does not need it is usable
    pb_utils = None


class TritonPythonModel:
    """One instance of `references_<head>`, with the interface of Triton's Python backend."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the references; `args` come from Triton."""
        self.references = read_references(Path(__file__).with_name("references.jsonl"))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests: index INT32 [b, R'] and weight FP32 [b, R'] to `references` BYTES [b, 1], JSON."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        index, weight = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("reference_index", "reference_weight")
        )
        named = [[describe(self.references, *row)] for row in zip(index, weight)]  # noqa: B905  (Python 3.9 and later)
        return pb_utils.InferenceResponse([pb_utils.Tensor("references", np.array(named, dtype=np.object_))])


def read_references(path: Path) -> list[dict[str, Any]]:
    """Read references.jsonl: `id` and `labels` of each, in the head's order."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def describe(references: Sequence[Mapping[str, Any]], index: Any, weight: Any) -> bytes:
    """Name the references of one answer, in the order given: a JSON array of `id`, `labels` and `weight`.

    `index` is int32 [R'], `weight` float32 [R'], 0 for those that did not take part.
    """
    kept = [{**references[at], "weight": float(str(share))} for at, share in zip(index, weight) if share > 0]  # noqa: B905
    return json.dumps(kept, ensure_ascii=False).encode()
