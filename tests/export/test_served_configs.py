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
def served_repository(encoder, make_run, tmp_path_factory):
    runs = {"mld": make_run(encoder, "mld", 46, layers=1, hidden=64, labels=[f"Lärm “{n}”" for n in range(46)])}
    repository = tmp_path_factory.mktemp("served") / "model_repository"
    options = ExportOptions(configs=ConfigOptions(max_batch=8, fp16=True, preprocess_instances=1))
    export_runs(runs, repository, options, encoders=[encoder])
    return repository, runs["mld"]


@pytest.mark.parametrize("variant", ["cuda", "tensorrt"])
def test_gpu_variant_loads_and_answers(variant, served_repository, encoder):
    repository, run = served_repository
    draw = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8, generator=draw)
    with torch.no_grad():
        scores = torch.sigmoid(run.head(encoder(pixels)[1])).numpy()
    asked = triton.InferInput("pixels", list(pixels.shape), "UINT8")
    asked.set_data_from_numpy(pixels.numpy())
    with (
        Server(repository, model_config_name=variant, ready_timeout=300) as server,
        triton.InferenceServerClient(server.grpc_url) as client,
    ):
        loaded = client.get_model_config("encoder_nano", client_timeout=DEADLINE).config
        answer = client.infer("mld", [asked], client_timeout=DEADLINE)
        best = client.infer(
            "mld",
            [asked],
            outputs=[triton.InferRequestedOutput("scores", class_count=1)],
            client_timeout=DEADLINE,
        )
    accelerators = loaded.optimization.execution_accelerators.gpu_execution_accelerator
    assert [accelerator.name for accelerator in accelerators] == [variant]
    assert set(server.ensembles) == {"mld", "mld_bytes", "heads_nano", "heads_nano_bytes"}
    np.testing.assert_allclose(answer.as_numpy("scores"), scores, atol=1e-4)
    np.testing.assert_array_equal(answer.as_numpy("selected"), answer.as_numpy("scores") >= run.thresholds)
    assert best.as_numpy("scores")[0, 0].decode().endswith(run.labels[int(scores.argmax())])
