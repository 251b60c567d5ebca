"""An encoder folder with random weights, small enough to be run in any test."""

import json

import pytest

from mlclip.encoders import load_encoder
from mlclip.pretrain import new_model, save

ARCHITECTURE = {
    "model_cfg": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"},
}


@pytest.fixture(scope="session")
def architecture(tmp_path_factory):
    path = tmp_path_factory.mktemp("architecture") / "open_clip_config.json"
    path.write_text(json.dumps(ARCHITECTURE))
    return path


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory, architecture):
    folder = tmp_path_factory.mktemp("encoders") / "small"
    save(new_model(architecture, seed=3)[0], ARCHITECTURE, folder)
    return folder


@pytest.fixture
def encoder(encoder_folder):
    return load_encoder(str(encoder_folder))
