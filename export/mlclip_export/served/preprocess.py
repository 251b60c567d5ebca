"""Triton Python model: the bytes of an image file become pixels for the encoder.

The export copies this file to `preprocess/<version>/model.py` with `pixels.py` beside it, and writes the pixel
settings into the model's config. It runs on Python 3.10 and needs Pillow and numpy.
"""

import importlib.util
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

try:
    import triton_python_backend_utils as pb_utils
except ModuleNotFoundError:  # outside Triton, only what does not need it is usable
    pb_utils = None


class TritonPythonModel:
    """One instance of `preprocess`, with the interface of Triton's Python backend."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load `pixels.py` and read the settings from the config, which `args` from Triton has as JSON."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.pixels = load_pixels(Path(__file__).with_name("pixels.py"))
        self.spec = self.pixels.PixelSpec.of(parameters)
        queue = config["dynamic_batching"]["default_queue_policy"]
        self.patience = int(queue["default_timeout_microseconds"]) / 1e6
        self.max_bytes = int(parameters["max_bytes"])
        self.pixels.Image.MAX_IMAGE_PIXELS = int(parameters["max_pixels"])

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer requests: `image` BYTES [b, 1] to `pixels` UINT8 [b, S, S, 3]; a bad image fails its request.

        Each answer is sent when it is there, so a large image delays only those behind it, and not for longer than a
        request may wait in Triton's queue.
        """
        until = time.monotonic() + self.patience
        for request in requests:
            answer = self._answer(request, until)
            request.get_response_sender().send(answer, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _answer(self, request: Any, until: float) -> Any:
        if request.is_cancelled():
            error = pb_utils.TritonError("the client has cancelled the request", pb_utils.TritonError.CANCELLED)
            return pb_utils.InferenceResponse(error=error)
        if time.monotonic() > until:
            error = pb_utils.TritonError("Request timeout expired", pb_utils.TritonError.UNAVAILABLE)
            return pb_utils.InferenceResponse(error=error)
        images = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)
        try:
            pixels = np.stack([self._pixels_of(image) for image in images])
        except self.pixels.ImageError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"bad image: {error}"))
        return pb_utils.InferenceResponse([pb_utils.Tensor("pixels", pixels)])

    def _pixels_of(self, image: bytes) -> Any:
        if len(image) > self.max_bytes:
            raise self.pixels.ImageTooLarge(f"{len(image)} bytes are over the limit of {self.max_bytes}")
        return self.pixels.to_pixels(bytes(image), self.spec)


def load_pixels(path: Path) -> ModuleType:
    """Import this model's `pixels.py`, not a module of that name on the Python path."""
    spec = importlib.util.spec_from_file_location("mlclip_served_pixels", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    return module
