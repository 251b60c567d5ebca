"""All heads, trained a little on the demo data, exported and served by a real Triton: once for all tests here."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlclip_client.pixels import to_pixels
from mlclip_export import export_runs
from mlclip_serve import Server

from mlclip import FeatureCache, Recipe, heads, load_encoder, read_dataset, train_run
from mlclip.calibration import fit_calibration, moved_thresholds
from mlclip.data import k_shot
from mlclip.training.runs import run_scores, split_scores
from mlclip.training.trust import measure_novelty

ROOT = Path(__file__).parents[2]
DATA = ROOT / "demo" / "data" / "manifest.jsonl"
HEADS = tuple(heads.HEADS)
QUICK = {"mld": {"lr": 3e-3, "epochs": 6}, "fusion": {"epochs": 24}, "siglip": {"epochs": 1}}
"""Settings of short trainings; all other heads stop after 8 epochs."""
SMALL = {"mld": {"hidden": 128, "decoder_width": 128}}
INDEXED = "neighbors_hnsw"
"""One more: `neighbors` with a faiss index, which a Python model serves."""
TRUSTED = ("sigmoid", "mld", "zeroshot")
"""Heads that are calibrated and say how novel an image is: with logits, without the embedding, with scores."""


@dataclass
class Served:
    """A running server, and the same heads in this process."""

    server: Server
    repository: Path
    encoders: dict
    runs: dict
    paths: list
    known: dict = field(default_factory=dict)
    """Features by an encoder's tag and a file's bytes: tests ask for the same ones."""

    def encoder(self, name):
        """The encoder that a head reads."""
        return self.encoders[self.runs[name].encoder.tag]

    def expected(self, name, paths):
        """Scores float32 [R, N] that this process computes for image files without a text, from float32 features."""
        return run_scores(self.runs[name], self.outputs(name, paths)[0].numpy())

    @torch.inference_mode()
    def outputs(self, name, paths):
        """All that a head gives in this process for image files without a text, from float32 features."""
        head = self.runs[name].head
        rows = [self.features(name, path) for path in paths]
        features = {kind: torch.cat([row[kind] for row in rows]) for kind in rows[0]}
        output = head(*(features[kind] for kind in head.inputs))
        return output if isinstance(output, tuple) else (output,)

    def features(self, name, path):
        """What the encoder of a head gives for an image file, as a batch of one."""
        return self._features(self.encoder(name), path.read_bytes())

    def _features(self, encoder, data):
        if (encoder.tag, data) not in self.known:
            pixels = torch.from_numpy(np.stack([to_pixels(data, encoder.spec)]))
            embedding, tokens = encoder(pixels)
            features = {"embedding": embedding, "tokens": tokens, "text_embedding": torch.zeros_like(embedding)}
            self.known[encoder.tag, data] = features
        return self.known[encoder.tag, data]


def few_images(dataset, shots, every):
    """Keep about so many training images per class, and every n-th of the others."""
    others = [item for item in dataset.items if item.split != "train"][::every]
    train = [item for item in k_shot(dataset, shots).items if item.split == "train"]
    return replace(dataset, items=(*train, *others))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """An encoder and a run for each head, quickly trained on the demo's pictures."""
    encoder = load_encoder()
    dataset = few_images(read_dataset(DATA), 8, 3)
    cache = FeatureCache(encoder, tmp_path_factory.mktemp("features"))
    runs = {}
    for name, head in heads.HEADS.items():
        quick = {"epochs": min(head.defaults.epochs, 8), **QUICK.get(name, {})}
        recipe = Recipe(name, SMALL.get(name, {}), training=replace(head.defaults, **quick))
        some = few_images(dataset, 1, 8) if name == "siglip" else dataset  # the only one that trains its encoder
        runs[name] = train_run(some, encoder, cache, recipe)
    for name in TRUSTED:
        run = measure_novelty(runs[name], dataset, cache)
        maps = fit_calibration(*split_scores(run, dataset, cache, "val", raw=True), run.head.outputs[0])
        runs[name] = replace(run, calibration=maps, thresholds=moved_thresholds(run.thresholds, None, maps))
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
