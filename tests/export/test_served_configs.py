"""The GPU variants load in the real tritonserver, unchanged, and give torch's scores: here on the CPU.

Where there is no GPU, Triton reads KIND_AUTO as KIND_CPU, and the embedded backend ignores the accelerators.
"""

import io
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from grpc import StatusCode
from mlclip_client import Client
from mlclip_client.errors import TooLarge, from_rpc
from mlclip_export import ConfigOptions, ExportOptions, export_runs
from mlclip_serve import Server
from PIL import Image
from tritonclient.utils import InferenceServerException

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


@pytest.mark.faults
def test_images_over_the_servers_limits_are_refused_before_they_are_decoded(client):
    """One bit per pixel: a file of 8 kB."""
    file = io.BytesIO()
    Image.new("1", (8000, 5001)).save(file, "PNG")
    image = triton.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[file.getvalue()]], dtype=np.object_))
    with pytest.raises(InferenceServerException) as caught:
        client.infer("sigmoid_bytes", [image], client_timeout=DEADLINE)
    error = from_rpc(SimpleNamespace(code=lambda: StatusCode.INTERNAL, details=caught.value.message), "", 1)
    assert type(error) is TooLarge
    assert str(error) == "the image is too large: 8000 x 5001 is over 40000000 pixels"


@pytest.mark.slow
@pytest.mark.faults
def test_one_damaged_head_is_left_out_and_the_others_are_served(served_repository, pixels, tmp_path):
    repository = shutil.copytree(served_repository, tmp_path / "repository")
    weights = repository / "head_mld" / "1" / "model.onnx.data"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with Server(repository, ready_timeout=300) as server, Client(server.grpc_url) as client:
        assert server.ensembles == ["sigmoid", "sigmoid_bytes"]
        (line,) = server.damage
        lost = "heads_nano, heads_nano_bytes, mld, mld_bytes"
        assert line == f"{weights} is not as it was exported; not served: {lost}; export again"
        assert list(client.classify(pixels[0].numpy()).answers) == ["sigmoid"]
