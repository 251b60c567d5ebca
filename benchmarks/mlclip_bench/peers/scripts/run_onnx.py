"""mlclip without a server: its pixels and its exported encoder in onnxruntime, a batch at a time."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from mlclip_client.pixels import PixelSpec, to_pixels


def load(settings: dict[str, Any]) -> tuple[Callable[[list[str]], Any], dict[str, Any]]:
    """Open the encoder's graph."""
    session = onnxruntime.InferenceSession(settings["onnx"], providers=["CPUExecutionProvider"])
    spec = PixelSpec(**settings["spec"])

    def embed(paths: list[str]) -> Any:
        parts = []
        for start in range(0, len(paths), settings["batch"]):
            batch = paths[start : start + settings["batch"]]
            pixels = np.stack([to_pixels(Path(path).read_bytes(), spec) for path in batch])
            parts.append(session.run(["embedding"], {"pixels": pixels})[0])
        return np.concatenate(parts)

    return embed, {"onnxruntime": onnxruntime.__version__, "threads": os.cpu_count()}
