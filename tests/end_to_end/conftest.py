"""Two heads, trained a little on the demo data, exported and served by a real Triton: once for all tests here."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from mlclip_client.pixels import to_pixels
from mlclip_export import export_runs
from mlclip_serve import Server

from mlclip import FeatureCache, Recipe, TrainConfig, heads, load_encoder, read_dataset, train_run
from mlclip.encoders import Encoder

ROOT = Path(__file__).parents[2]
DATA = ROOT / "demo" / "data" / "manifest.jsonl"
HEADS = tuple(heads.HEADS)


@dataclass
class Served:
    """A running server, and the same heads in this process."""

    server: Server
    repository: Path
    encoder: Encoder
    runs: dict
    paths: list

    @torch.inference_mode()
    def expected(self, name, paths):
        """Scores float32 [R, N] that this process computes for image files."""
        pixels = np.stack([to_pixels(path.read_bytes(), self.encoder.spec) for path in paths])
        features = dict(zip(("embedding", "tokens"), self.encoder(torch.from_numpy(pixels)), strict=True))
        head = self.runs[name].head
        return head(features[head.inputs[0]]).sigmoid().numpy()


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """An encoder and a run for each head, quickly trained on the demo's pictures."""
    encoder = load_encoder()
    dataset = read_dataset(DATA)
    cache = FeatureCache(encoder, tmp_path_factory.mktemp("features"))
    training = {"sigmoid": TrainConfig(epochs=8), "mld": TrainConfig(lr=1e-3, epochs=2, alignment_weight=0.1)}
    runs = {name: train_run(dataset, encoder, cache, Recipe(name, training=training[name])) for name in HEADS}
    return encoder, runs, [item.path for item in dataset.split("test").items]


@pytest.fixture(scope="session")
def served(trained, tmp_path_factory):
    encoder, runs, paths = trained
    repository = tmp_path_factory.mktemp("served") / "model_repository"
    export_runs(runs, repository, encoders=[encoder])
    with Server(repository) as server:
        yield Served(server, repository, encoder, runs, paths)
