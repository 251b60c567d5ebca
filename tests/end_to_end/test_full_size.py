"""Encoders at full size, with random weights: the shipped one must not be the only one that works."""

import numpy as np
import pytest
import torch
from mlclip_client import Client
from mlclip_client.pixels import to_pixels
from mlclip_export import export_runs
from mlclip_serve import Server

from mlclip import Run, load_encoder
from mlclip.checkpoint import EncoderRef
from mlclip.heads import FeatureShapes, build_head

LABELS = tuple(f"label {n}" for n in range(46))


@pytest.fixture(scope="module", params=["ViT-B-32", "RN50"])
def encoder(request):
    return load_encoder(request.param, "random")


def untrained(name, encoder):
    torch.manual_seed(0)
    head = build_head(
        name, len(LABELS), FeatureShapes(encoder.embedding_width, encoder.token_count, encoder.token_width)
    )
    thresholds = np.full(len(LABELS), 0.5, dtype=np.float32)
    return Run(head.eval().requires_grad_(False), LABELS, thresholds, EncoderRef.of(encoder))


@pytest.mark.slow
def test_an_encoder_exports_serves_and_agrees_with_torch(encoder, trained, tmp_path):
    runs = {name: untrained(name, encoder) for name in ("sigmoid", "mld")}
    report = export_runs(runs, tmp_path / "model_repository", encoders=[encoder])
    assert max(difference.value for difference in report.differences) < 1e-4
    outputs = {found.output for found in report.differences if found.model == f"encoder_{encoder.tag}"}
    assert outputs == {"embedding", "tokens", "embedding_out"}
    paths = trained[2][:6]
    pixels = np.stack([to_pixels(path.read_bytes(), encoder.spec) for path in paths])
    with torch.inference_mode():
        embedding, tokens = encoder(torch.from_numpy(pixels))
        expected = {name: runs[name].head(x).sigmoid() for name, x in (("sigmoid", embedding), ("mld", tokens))}
    with (
        Server(tmp_path / "model_repository", ready_timeout=600) as server,
        Client(server.grpc_url, heads=("sigmoid", "mld"), embeddings=True, timeout=120) as client,
    ):
        predictions = list(client.classify_many(paths, concurrency=3))
    for name in runs:
        scores = [prediction.answers[name].scores for prediction in predictions]
        np.testing.assert_allclose(scores, expected[name].numpy(), atol=1e-4)
    np.testing.assert_allclose([p.embedding for p in predictions], embedding.numpy(), atol=1e-4)
