"""What all tests share: a small encoder with random weights, pictures on disk, and servers that settle."""

import json
import os
import resource
import tempfile
import time
from contextlib import contextmanager

os.environ.setdefault("OMP_NUM_THREADS", "1")  # test workers share the cores; threads of several would wait in turns

import numpy as np
import pytest
from PIL import Image

from mlclip.encoders.clip import load_encoder
from mlclip.encoders.folder import new_model, save

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "white": (250, 250, 250)}
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


@pytest.fixture(scope="session")
def encoder(encoder_folder):
    return load_encoder(str(encoder_folder))


@pytest.fixture
def full_disk():
    """In the block, no file can grow beyond some bytes, as on a disk that is full."""

    @contextmanager
    def limit(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


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


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """90 pictures whose halves are coloured; labels are the colours. Returns paths and label tuples."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths, labels = [], []
    for n in range(90):
        left, right = rng.choice(list(COLOURS), size=2)
        pixels = np.empty((24, 24, 3))
        pixels[:, :12], pixels[:, 12:] = COLOURS[left], COLOURS[right]
        noisy = (pixels + rng.normal(scale=8, size=pixels.shape)).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{n:03d}.png")
        Image.fromarray(noisy).save(paths[-1])
        labels.append(tuple(sorted({str(left), str(right)})))
    return paths, labels
