"""What most people write first: open_clip's own preprocessing and encode_image, a batch at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image


def load(settings: dict[str, Any]) -> tuple[Callable[[list[str]], Any], dict[str, Any]]:
    """Load the model from its folder."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{settings['open_clip']}")
    model.eval()

    @torch.inference_mode()
    def embed(paths: list[str]) -> Any:
        parts = []
        for start in range(0, len(paths), settings["batch"]):
            images = [preprocess(Image.open(path)) for path in paths[start : start + settings["batch"]]]
            parts.append(model.encode_image(torch.stack(images)).numpy())
        return np.concatenate(parts)

    return embed, {"open_clip": open_clip.__version__, "torch": torch.__version__, "threads": torch.get_num_threads()}
