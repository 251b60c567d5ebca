"""All heads, trained a little on the demo data, exported and served by a real Triton: once for all tests here."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlclip_client.pixels import to_pixels
from mlclip_export import export_runs
from mlclip_serve import Server

from mlclip import FeatureCache, Recipe, heads, load_encoder, read_dataset, train_run
from mlclip.data import k_shot
from mlclip.heads.base import to_scores

ROOT = Path(__file__).parents[2]
DATA = ROOT / "demo" / "data" / "manifest.jsonl"
HEADS = tuple(heads.HEADS)
QUICK = {"mld": {"lr": 1e-3, "epochs": 2}, "siglip": {"epochs": 1}}
"""Settings that make some trainings quicker; all others stop after 8 epochs."""
INDEXED = "neighbors_hnsw"
"""One more: `neighbors` with a faiss index, which a Python model serves."""


@dataclass
class Served:
    """A running server, and the same heads in this process."""

    server: Server
    repository: Path
    encoders: dict
    runs: dict
    paths: list

    def encoder(self, name):
        """The encoder that a head reads."""
        return self.encoders[self.runs[name].encoder.tag]

    def expected(self, name, paths):
        """Scores float32 [R, N] that this process computes for image files without a text, from float32 features."""
        return to_scores(self.runs[name].head, self.outputs(name, paths)[0]).numpy()

    @torch.inference_mode()
    def outputs(self, name, paths):
        """All that a head gives in this process for image files without a text, from float32 features."""
        encoder, head = self.encoder(name), self.runs[name].head
        pixels = np.stack([to_pixels(path.read_bytes(), encoder.spec) for path in paths])
        features = dict(zip(("embedding", "tokens"), encoder(torch.from_numpy(pixels)), strict=True))
        features["text_embedding"] = torch.zeros_like(features["embedding"])
        output = head(*(features[kind] for kind in head.inputs))
        return output if isinstance(output, tuple) else (output,)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """An encoder and a run for each head, quickly trained on the demo's pictures."""
    encoder = load_encoder()
    dataset = read_dataset(DATA)
    cache = FeatureCache(encoder, tmp_path_factory.mktemp("features"))
    runs = {}
    for name, head in heads.HEADS.items():
        quick = {"epochs": min(head.defaults.epochs, 8), **QUICK.get(name, {})}
        recipe = Recipe(name, training=replace(head.defaults, **quick))
        some = k_shot(dataset, 2) if name == "siglip" else dataset  # the only one that trains its encoder
        runs[name] = train_run(some, encoder, cache, recipe)
    runs[INDEXED] = train_run(dataset, encoder, cache, Recipe("neighbors", {"index": "hnsw"}))
    return encoder, runs, [item.path for item in dataset.split("test").items]


@pytest.fixture(scope="session")
def served(trained, tmp_path_factory):
    encoder, runs, paths = trained
    repository = tmp_path_factory.mktemp("served") / "model_repository"
    export_runs(runs, repository, encoders=[encoder])
    encoders = {encoder.tag: encoder}
    for run in runs.values():
        if run.encoder.tag not in encoders:
            encoders[run.encoder.tag] = run.encoder.load()
    with Server(repository, ready_timeout=600) as server:
        yield Served(server, repository, encoders, runs, paths)
