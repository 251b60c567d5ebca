"""sentence-transformers with its CLIP module, as its documentation shows for images."""

from collections.abc import Callable
from typing import Any

import sentence_transformers  # type: ignore[import-not-found]
import torch
import transformers  # type: ignore[import-not-found]
from PIL import Image
from sentence_transformers.sentence_transformer.modules import CLIPModel  # type: ignore[import-not-found]


def load(settings: dict[str, Any]) -> tuple[Callable[[list[str]], Any], dict[str, Any]]:
    """Load the model from its folder in Hugging Face's format."""
    model = sentence_transformers.SentenceTransformer(modules=[CLIPModel(settings["hugging_face"])], device="cpu")

    def embed(paths: list[str]) -> Any:
        parts = []
        for start in range(0, len(paths), settings["batch"]):
            images = [Image.open(path) for path in paths[start : start + settings["batch"]]]
            parts.extend(model.encode(images, batch_size=settings["batch"], show_progress_bar=False))
        return parts

    return embed, {
        "sentence-transformers": sentence_transformers.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
