"""The GPU variants load in the real tritonserver, unchanged, and give torch's scores: here on the CPU.

Where there is no GPU, Triton reads KIND_AUTO as KIND_CPU, and the embedded backend ignores the accelerators.
"""

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from mlclip_export import ConfigOptions, ExportOptions, export_runs
from mlclip_serve import Server

DEADLINE = 120.0


@pytest.fixture(scope="module")
def runs(encoder, make_run):
    labels = [f"Lärm “{n}”" for n in range(46)]
    return {"mld": make_run(encoder, "mld", 46, layers=1, hidden=64, labels=labels), "sigmoid": make_run(encoder)}


@pytest.fixture(scope="module")
def served_repository(runs, encoder, tmp_path_factory):
    repository = tmp_path_factory.mktemp("served") / "model_repository"
    options = ExportOptions(configs=ConfigOptions(max_batch=8, fp16=True, preprocess_instances=1))
    export_runs(runs, repository, options, encoders=[encoder])
    return repository


@pytest.fixture(scope="module")
def pixels():
    return torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module", params=["cuda", "tensorrt"])
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def client(variant, served_repository):
    with (
        Server(served_repository, model_config_name=variant, ready_timeout=300) as server,
        triton.InferenceServerClient(server.grpc_url) as client,
    ):
        yield client


def ask(client, model, pixels, *outputs):
    asked = triton.InferInput("pixels", list(pixels.shape), "UINT8")
    asked.set_data_from_numpy(pixels.numpy())
    return client.infer(model, [asked], outputs=list(outputs) or None, client_timeout=DEADLINE)


def runs_of(client, model):
    statistics = client.get_inference_statistics(model, client_timeout=DEADLINE)
    return statistics.model_stats[0].execution_count


def test_variant_is_loaded_as_written(client, variant):
    for model in ("encoder_nano", "head_mld"):
        config = client.get_model_config(model, client_timeout=DEADLINE).config
        accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
        assert [accelerator.name for accelerator in accelerators] == [variant]


def test_served_scores_equal_torch(client, encoder, runs, pixels):
    run = runs["mld"]
    with torch.no_grad():
        scores = torch.sigmoid(run.head(encoder(pixels)[1])).numpy()
    answer = ask(client, "mld", pixels)
    np.testing.assert_allclose(answer.as_numpy("scores"), scores, atol=1e-4)
    np.testing.assert_array_equal(answer.as_numpy("selected"), answer.as_numpy("scores") >= run.thresholds)
    np.testing.assert_allclose(np.linalg.norm(answer.as_numpy("embedding_out")), 1, atol=1e-4)


def test_label_file_names_the_classes(client, runs, pixels):
    scores = ask(client, "mld", pixels).as_numpy("scores")
    best = ask(client, "mld", pixels, triton.InferRequestedOutput("scores", class_count=1)).as_numpy("scores")
    assert best[0, 0].decode().endswith(runs["mld"].labels[int(scores.argmax())])


def test_combined_ensemble_runs_only_the_heads_asked_for(client, pixels, settled):
    def counts():
        return runs_of(client, "head_mld"), runs_of(client, "head_sigmoid")

    mld, sigmoid = settled(counts)
    ask(client, "heads_nano", pixels, triton.InferRequestedOutput("sigmoid_scores"))
    assert settled(counts, (mld, sigmoid + 1)) == (mld, sigmoid + 1)
