"""The CPU backend inside a real Triton."""

import io
import queue
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from .conftest import DEADLINE, SIZE, members, tensor


def in_process(repository: Path, model: str, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    path = repository / model / "1" / "model.onnx"
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feed)


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("count", [1, 3, 32])
def test_ensemble_equals_onnxruntime_to_the_last_bit(client, repository, count):
    batch = pixels(count)
    answer = client.infer("demo", [tensor("pixels", batch, "UINT8")], client_timeout=DEADLINE)
    embedding, copy = in_process(repository, "encoder", {"pixels": batch})
    (logits,) = in_process(repository, "head", {"embedding": embedding})
    scores, selected = in_process(repository, "threshold", {"logits": logits})
    np.testing.assert_array_equal(answer.as_numpy("scores"), scores)
    np.testing.assert_array_equal(answer.as_numpy("selected"), selected)
    np.testing.assert_array_equal(answer.as_numpy("embedding_out"), copy)
    assert selected.any() and not selected.all()


def test_model_that_asks_for_openvino_runs_there(client, server, repository):
    for batch in (pixels(3), pixels(1)):
        answer = client.infer("accelerated", [tensor("pixels", batch, "UINT8")], client_timeout=DEADLINE)
        wanted, _ = in_process(repository, "accelerated", {"pixels": batch})
        np.testing.assert_allclose(answer.as_numpy("embedding"), wanted, rtol=0, atol=1e-5)
    assert "libopenvino" in "".join(
        (Path("/proc") / str(process) / "maps").read_text() for process in members(server.pid)
    )


def test_bytes_ensemble_equals_pixels_ensemble(client):
    picture = pixels(1)[0]
    data = np.array([[png(picture)]], dtype=np.object_)
    by_bytes = client.infer("demo_bytes", [tensor("image", data, "BYTES")], client_timeout=DEADLINE)
    by_pixels = client.infer("demo", [tensor("pixels", picture[None], "UINT8")], client_timeout=DEADLINE)
    np.testing.assert_array_equal(by_bytes.as_numpy("scores"), by_pixels.as_numpy("scores"))


def test_every_data_type_passes_unchanged(client):
    values = {
        "BOOL": np.array([[True, False, True]]),
        "FP16": np.array([[1.5, -0.0, 65504.0, np.inf]], np.float16),
        "FP32": np.array([[np.pi]], np.float32),
        "INT32": np.array([[-(2**31), 2**31 - 1]], np.int32),
        "INT64": np.array([[-(2**63)]], np.int64),
        "UINT8": np.array([[0, 255]], np.uint8),
    }
    inputs = [tensor(f"in_{kind}", value, kind) for kind, value in values.items()]
    answer = client.infer("types", inputs, client_timeout=DEADLINE)
    for kind, value in values.items():
        got = answer.as_numpy(f"out_{kind}")
        assert got.dtype == value.dtype
        assert got.tobytes() == value.tobytes()


@pytest.mark.parametrize("wanted", [["same"], ["picked"], ["picked", "same"]])
def test_answer_holds_the_requested_outputs_only(client, wanted):
    outputs = [triton.InferRequestedOutput(name) for name in wanted]
    inputs = [tensor("index", np.array([[2]]), "INT64")]
    answer = client.infer("picky", inputs, outputs=outputs, client_timeout=DEADLINE)
    assert {output.name for output in answer.get_response().outputs} == set(wanted)
    assert all(len(answer.as_numpy(name)) == 1 for name in wanted)


def test_failed_run_is_an_error_that_says_why(client):
    unfit = [tensor("index", np.array([[99]]), "INT64")]
    with pytest.raises(InferenceServerException, match="out of data bounds, idx=99"):
        client.infer("picky", unfit, client_timeout=DEADLINE)


def infer_together(client, model, indices):
    """Send one request an index at once; return the answers or errors in the order of the indices."""
    done: queue.Queue[tuple[int, object]] = queue.Queue()
    for place, index in enumerate(indices):
        client.async_infer(
            model,
            [tensor("index", np.array([[index]]), "INT64")],
            callback=lambda result, error, place=place: done.put((place, error or result)),
            client_timeout=DEADLINE,
        )
    answers = dict(done.get(timeout=DEADLINE) for _ in indices)
    return [answers[place] for place in range(len(indices))]


def test_concurrent_requests_share_a_run(client, repository):
    before = client.get_inference_statistics("joined").model_stats[0]
    indices = [0, 1, 2, 1]
    answers = infer_together(client, "joined", indices)
    (_, picked) = in_process(repository, "joined", {"index": np.array(indices)[:, None]})
    np.testing.assert_array_equal(np.concatenate([answer.as_numpy("picked") for answer in answers]), picked)
    after = client.get_inference_statistics("joined").model_stats[0]
    assert after.inference_count - before.inference_count == 4
    assert after.execution_count - before.execution_count < 4


def test_bad_request_in_a_batch_fails_alone(client):
    good, bad, *rest = infer_together(client, "joined", [0, 77, 1, 2])
    assert isinstance(bad, InferenceServerException)
    assert "77" in str(bad)
    assert all(answer.as_numpy("picked") is not None for answer in (good, *rest))


def test_bad_image_fails_alone_and_the_server_goes_on(client):
    broken = np.array([[b"no image"]], dtype=np.object_)
    with pytest.raises(InferenceServerException, match="bad image: "):
        client.infer("demo_bytes", [tensor("image", broken, "BYTES")], client_timeout=DEADLINE)
    sound = np.array([[png(pixels(1)[0])]], dtype=np.object_)
    answer = client.infer("demo_bytes", [tensor("image", sound, "BYTES")], client_timeout=DEADLINE)
    assert answer.as_numpy("scores").shape == (1, 7)
