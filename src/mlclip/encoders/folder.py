"""Encoder folders in the format of open_clip: `open_clip_config.json` and `open_clip_model.safetensors`."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from mlclip.encoders.clip import Encoder, encoder_folder
from mlclip.errors import EncoderError
from mlclip.files import replacing_files

FILES = ("open_clip_config.json", "open_clip_model.safetensors")


def save(model: nn.Module, config: dict[str, object], folder: Path) -> None:
    """Write an encoder folder that `load_encoder` reads, both files or none; weights in float16."""
    weights = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in model.state_dict().items()
    }
    with replacing_files(folder, FILES) as new:
        (new / FILES[0]).write_text(json.dumps(config, indent=2) + "\n")
        (new / FILES[1]).write_bytes(to_bytes(weights))


def save_encoder(encoder: Encoder, folder: Path) -> None:
    """Write the folder of an encoder, with its tokenizer if that comes as files."""
    save(encoder.model, _config_of(encoder), folder)
    tokenizer: Any = getattr(encoder.tokenizer, "tokenizer", None)
    if hasattr(tokenizer, "save_pretrained"):  # a Hugging Face tokenizer: open_clip looks for it in the folder
        tokenizer.save_pretrained(folder)


def new_model(architecture: Path, seed: int) -> tuple[nn.Module, Callable[[list[str]], Tensor]]:
    """Build an untrained open_clip model and its tokenizer from an `open_clip_config.json`."""
    try:
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
            (Path(folder) / "open_clip_config.json").write_text(architecture.read_text())
            torch.manual_seed(seed)
            model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
            return model, open_clip.get_tokenizer(f"local-dir:{folder}")
    except (ValueError, KeyError) as error:
        raise EncoderError(f"{architecture} is not an open_clip_config.json: {error}") from error


def load_image_weights(model: nn.Module, file: Path) -> None:
    """Give a model's image tower the weights of a safetensors file, under the names that the tower itself uses."""
    tower: nn.Module = model.visual  # type: ignore[assignment]
    try:
        tower.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise EncoderError(f"{file} does not hold this image tower's weights: {str(error).splitlines()[0]}") from error


def _config_of(encoder: Encoder) -> dict[str, Any]:
    """An encoder's `open_clip_config.json`: `model_cfg` and `preprocess_cfg`."""
    folder = encoder_folder(encoder.name)
    if folder is None:
        preprocess = dict(encoder.visual.preprocess_cfg)  # type: ignore[arg-type]
        return {"model_cfg": open_clip.get_model_config(encoder.name), "preprocess_cfg": preprocess}
    config: dict[str, Any] = json.loads((folder / "open_clip_config.json").read_text())
    return config
