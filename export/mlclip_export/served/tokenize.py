"""Triton Python model: a text becomes CLIP's token ids.

The export copies this file to `tokenize/<version>/model.py` and writes the context length into the model's config. It
runs on Python 3.10 and needs numpy, instant-clip-tokenizer and ftfy.

`text` is optional, but Triton requires at least one input per request, so `pixels` is an input too; only its batch
size is read.
"""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import ftfy
import numpy as np
import numpy.typing as npt
from instant_clip_tokenizer import Tokenizer

try:
    import triton_python_backend_utils as pb_utils
except ModuleNotFoundError:  # outside Triton, only what does not need it is usable
    pb_utils = None

START, END = 49406, 49407


class TritonPythonModel:
    """One instance of `tokenize`, with the interface of Triton's Python backend."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the context length L from the config, which `args` from Triton has as JSON."""
        output = json.loads(args["model_config"])["output"][0]
        self.length, self.tokenizer = int(output["dims"][0]), Tokenizer()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests: optional `text` BYTES [b, 1] to `token_ids` INT64 [b, L]."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        text = pb_utils.get_input_tensor_by_name(request, "text")
        if text is None:
            batch = len(pb_utils.get_input_tensor_by_name(request, "pixels").as_numpy())
            ids = np.zeros((batch, self.length), dtype=np.int64)
        else:
            ids = np.stack([token_ids(self.tokenizer, value, self.length) for value in text.as_numpy().reshape(-1)])
        return pb_utils.InferenceResponse([pb_utils.Tensor("token_ids", ids)])


def token_ids(tokenizer: Tokenizer, text: bytes, length: int) -> npt.NDArray[np.int64]:
    """Tokenize a text as open_clip does: clean it, cut it to the context length L, end it with the end token.

    Invalid UTF-8 is replaced. Gives int64 [L], zeros behind the end; all zeros for a blank text, which counts as no
    text.
    """
    words = text.decode("utf-8", errors="replace")
    ids = np.zeros(length, dtype=np.int64)
    if words.strip():
        made = [START, *tokenizer.encode(clean(words))][: length - 1]
        ids[: len(made) + 1] = [*made, END]
    return ids


def clean(text: str) -> str:
    """Repair broken encodings, resolve HTML entities, collapse white space and lower the case, as open_clip does."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()
