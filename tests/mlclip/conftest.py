"""Small real pieces for the library's tests: pictures on disk."""

import numpy as np
import pytest
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "white": (250, 250, 250)}


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
