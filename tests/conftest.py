"""An encoder folder with random weights, small enough to be run in any test, and what tests of servers share."""

import json
import tempfile
import time

import pytest

from mlclip.encoders.clip import load_encoder
from mlclip.encoders.folder import new_model, save

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


@pytest.fixture
def settled():
    """Read a counter of Triton's once it rests: a Python backend counts a request after it has sent the answer."""

    def read(count, expected=None):
        """Wait until it has not changed for a second and, for a minute at most, until it is as expected."""
        start = since = time.monotonic()
        seen = count()
        while time.monotonic() < since + 1 or (expected not in (None, seen) and time.monotonic() < start + 60):
            time.sleep(0.05)
            if (now := count()) != seen:
                seen, since = now, time.monotonic()
        return seen

    return read


@pytest.fixture
def temporary_folder(tmp_path_factory, monkeypatch):
    """Keep what a test leaves behind, such as the log of a killed server, among pytest's own temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
    monkeypatch.setattr(tempfile, "tempdir", None)
