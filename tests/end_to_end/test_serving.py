"""From files to labels through a real Triton, for every head, from files and from pixels."""

import io
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
import tritonclient.grpc as grpc
from mlclip_client import BadImage, Client, ServerUnavailable
from mlclip_client.pixels import to_pixels
from mlclip_serve import Server
from PIL import Image

from mlclip import FeatureCache, heads

INDEXED = "neighbors_hnsw"
HEADS = (*heads.HEADS, INDEXED)
TRUSTED = ("sigmoid", "mld", "zeroshot")
OUTPUTS = ("scores", "selected", "top_index", "top_score", "embedding_out")


def ask(client, model, path_or_bytes, outputs, spec=None):
    """One raw gRPC request, as any language can make it."""
    data = path_or_bytes if isinstance(path_or_bytes, bytes) else path_or_bytes.read_bytes()
    if spec is None:
        tensor = grpc.InferInput("image", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[data]], dtype=np.object_))
    else:
        pixels = to_pixels(data, spec)[None]
        tensor = grpc.InferInput("pixels", list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels)
    wanted = [grpc.InferRequestedOutput(name) for name in outputs]
    answer = client.infer(model, [tensor], outputs=wanted, client_timeout=60)
    return {name: answer.as_numpy(name)[0] for name in outputs}


@pytest.mark.parametrize("via", ["bytes", "pixels"])
def test_a_folder_becomes_labels(served, via, tmp_path):
    """The command line as a crawler calls it, for all heads, on a folder with a broken file in it."""
    folder, out = tmp_path / "crawled", tmp_path / "labels.parquet"
    folder.mkdir()
    for path in served.paths[:20]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "broken.jpg").write_bytes(served.paths[0].read_bytes()[:900])
    command = [sys.executable, "-m", "mlclip_client", "classify", folder, "--via", via, "--scores", "--out", out]
    command += ["--url", served.server.grpc_url, *(option for head in HEADS for option in ("--head", head))]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 3, done.stderr.decode()
    rows = {os.path.basename(row["path"]): row for row in pq.read_table(out).to_pylist()}
    assert len(rows) == 21
    assert "image" in rows.pop("broken.jpg")["error"]
    for head in HEADS:
        run, answers = served.runs[head], [row["answers"][head] for row in rows.values()]
        expected = served.expected(head, [folder / name for name in rows])
        for answer, scores in zip(answers, expected, strict=True):
            np.testing.assert_allclose(answer["all_scores"], scores, atol=1e-4)
            clear = np.abs(scores - run.thresholds) > 1e-4
            chosen = {run.labels[n] for n in np.flatnonzero(clear & (scores >= run.thresholds))}
            unsure = {run.labels[n] for n in np.flatnonzero(~clear)}
            assert chosen <= set(answer["labels"]) <= chosen | unsure
        assert len({tuple(answer["labels"]) for answer in answers}) >= 2, "a constant would pass otherwise"


@pytest.mark.parametrize("via", ["bytes", "pixels"])
@pytest.mark.parametrize("head", HEADS)
def test_each_head_answers_alone(served, head, via):
    """Through the ensemble of its own; above, heads of one encoder are asked together."""
    paths = served.paths[:6]
    with Client(served.server.grpc_url, heads=(head,), via=via) as client:
        answers = [prediction.answers[head] for prediction in client.classify_many(paths)]
    assert {answer.model for answer in answers} == {head if via == "pixels" else f"{head}_bytes"}
    np.testing.assert_allclose([answer.scores for answer in answers], served.expected(head, paths), atol=1e-4)


@pytest.mark.parametrize("in_flight", [1, 3, 32])
def test_served_scores_equal_in_process_scores(served, in_flight):
    """Different heads, inputs and requested outputs at once, in the batches that Triton builds."""
    paths = served.paths[:48]
    expected = {head: served.expected(head, paths) for head in HEADS}

    def one(job):
        number, path = job
        head, through_pixels = HEADS[number % len(HEADS)], number % 3 == 0
        outputs = [OUTPUTS[: 1 + number % 5], ("scores",), ("scores", "embedding_out")][number % 3]
        model = head if through_pixels else f"{head}_bytes"
        spec = served.encoder(head).spec if through_pixels else None
        with grpc.InferenceServerClient(served.server.grpc_url) as client:  # no two threads may share one
            return head, number, ask(client, model, path, outputs, spec)

    with ThreadPoolExecutor(in_flight) as pool:
        for head, number, answer in pool.map(one, enumerate(paths)):
            scores = expected[head][number]
            np.testing.assert_allclose(answer["scores"], scores, atol=1e-4)
            run = served.runs[head]
            if "selected" in answer:
                clear = np.abs(scores - run.thresholds) > 1e-4
                assert np.array_equal(answer["selected"][clear], (scores >= run.thresholds)[clear])
            if "top_score" in answer:
                np.testing.assert_allclose(answer["top_score"], np.sort(scores)[::-1][:32], atol=1e-4)
                np.testing.assert_allclose(scores[answer["top_index"]], answer["top_score"], atol=1e-4)
            if "embedding_out" in answer:
                assert np.linalg.norm(answer["embedding_out"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("in_flight", [1, 3, 32])
def test_a_corrupt_image_fails_alone(served, in_flight):
    images = [path.read_bytes() for path in served.paths[:40]]
    images[7], images[23] = images[7][:500], b"no image at all"
    with Client(served.server.grpc_url, heads=("mld",)) as client:
        predictions = list(client.classify_many(images, concurrency=in_flight))
    failed = [n for n, prediction in enumerate(predictions) if prediction.error]
    assert failed == [7, 23]
    assert all(isinstance(predictions[n].error, BadImage) for n in failed)
    good = [n for n in range(40) if n not in failed]
    expected = served.expected("mld", [served.paths[n] for n in good])
    served_scores = [predictions[n].answers["mld"].scores for n in good]
    np.testing.assert_allclose(served_scores, expected, atol=1e-4)


def executions(client, model):
    return lambda: int(client.get_inference_statistics(model).model_stats[0].inference_stats.success.count)


def test_all_heads_of_an_encoder_cost_one_encoder_pass(served, settled):
    """`heads_<tag>` answers all but those that brought an encoder of their own."""
    shared = served.encoder("mld")
    together = tuple(name for name in HEADS if served.encoder(name) is shared)
    assert set(HEADS) - set(together) <= {"siglip"}
    with grpc.InferenceServerClient(served.server.grpc_url) as raw:
        before = settled(passes := executions(raw, f"encoder_{shared.tag}"))
        with Client(served.server.grpc_url, heads=together, embeddings=True) as client:
            predictions = list(client.classify_many(served.paths[:10]))
        assert settled(passes, before + 10) == before + 10
        assert {answer.model for answer in predictions[0].answers.values()} == {f"heads_{shared.tag}_bytes"}
    for head in together:
        scores = [prediction.answers[head].scores for prediction in predictions]
        np.testing.assert_allclose(scores, served.expected(head, served.paths[:10]), atol=1e-4)


def test_an_answer_names_the_references_behind_it(served):
    """Weights and labels of the named references give the scores again."""
    named = tuple(name for name in HEADS if "reference_index" in served.runs[name].head.outputs)
    assert {"knn1", "neighbors", INDEXED} <= set(named)
    with Client(served.server.grpc_url, heads=(*named, "sigmoid"), explain=True) as client:
        predictions = list(client.classify_many(served.paths[:12]))
    for prediction in predictions:
        assert prediction.error is None
        assert prediction.answers["sigmoid"].references is None
        for answer in (prediction.answers[name] for name in named):
            weights = [reference.weight for reference in answer.references]
            assert weights == sorted(weights, reverse=True)
            assert {reference.id for reference in answer.references} <= set(served.runs[answer.head].head.reference_ids)
        for answer in (prediction.answers[name] for name in ("knn1", "neighbors", INDEXED)):
            scores = [sum(r.weight for r in answer.references if label in r.labels) for label in answer.labels]
            np.testing.assert_allclose(answer.scores, scores, atol=1e-4)


def test_a_faiss_index_answers_through_its_own_model(served):
    """The scores and the very references, with their weights, that this process finds."""
    run, paths = served.runs[INDEXED], served.paths[:40]
    assert run.head.config["index"] == "hnsw"
    with grpc.InferenceServerClient(served.server.grpc_url) as raw:
        config = raw.get_model_config(f"head_{INDEXED}", as_json=True)["config"]
    assert config["backend"] == "python", "no graph holds an index"
    with Client(served.server.grpc_url, heads=(INDEXED,), explain=True) as client:
        answers = [prediction.answers[INDEXED] for prediction in client.classify_many(paths)]
    scores, index, weight = (part.numpy() for part in served.outputs(INDEXED, paths))
    np.testing.assert_allclose([answer.scores for answer in answers], scores, atol=1e-4)
    for answer, rows, weights in zip(answers, index, weight, strict=True):
        found = {run.head.reference_ids[row]: share for row, share in zip(rows, weights, strict=True)}
        assert answer.references
        for reference in answer.references:
            assert reference.weight == pytest.approx(found[reference.id], abs=1e-4)


def test_a_head_nobody_asks_for_is_not_run(served, settled):
    with grpc.InferenceServerClient(served.server.grpc_url) as client:
        before = settled(executions(client, "head_mld"))
        combined = f"heads_{served.encoder('mld').tag}_bytes"
        answer = ask(client, combined, served.paths[0], ("sigmoid_scores",))
        assert settled(executions(client, "head_mld")) == before
    np.testing.assert_allclose(answer["sigmoid_scores"], served.expected("sigmoid", served.paths[:1])[0], atol=1e-4)


def odd_images():
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (90, 140, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to be upright
    sixteen = Image.fromarray(rng.integers(0, 65536, (50, 70), dtype=np.uint16))
    alpha = photo.convert("RGBA")
    alpha.putalpha(Image.fromarray(rng.integers(0, 256, (90, 140), dtype=np.uint8)))
    pictures = {
        "rgb.jpg": (photo, {}),
        "rgb.png": (photo, {}),
        "alpha.png": (alpha, {}),
        "palette.png": (photo.quantize(16), {}),
        "palette_transparent.png": (photo.quantize(16), {"transparency": 3}),
        "cmyk.jpg": (photo.convert("CMYK"), {}),
        "rotated.jpg": (photo, {"exif": exif}),
        "gray.png": (photo.convert("L"), {}),
        "gray_alpha.png": (alpha.convert("LA"), {}),
        "sixteen_bit.png": (sixteen, {}),
        "one_pixel.png": (photo.crop((0, 0, 1, 1)), {}),
    }
    for name, (picture, options) in pictures.items():
        buffer = io.BytesIO()
        picture.save(buffer, {"jpg": "JPEG", "png": "PNG"}[name.rsplit(".")[-1]], **options)
        yield pytest.param(buffer.getvalue(), id=name)


@pytest.mark.parametrize("data", list(odd_images()))
def test_pixels_are_the_same_in_training_server_and_client(served, data, tmp_path):
    """The server's own `preprocess` against the client's function, and both inputs against the features cache."""
    path = tmp_path / "image"
    path.write_bytes(data)
    with grpc.InferenceServerClient(served.server.grpc_url) as client:
        pixels = ask(client, "preprocess", data, ("pixels",))["pixels"]
        embeddings = [
            ask(client, "sigmoid_bytes", data, ("scores", "embedding_out"))["embedding_out"],
            ask(client, "sigmoid", data, ("scores", "embedding_out"), served.encoder("sigmoid").spec)["embedding_out"],
        ]
    assert np.array_equal(pixels, to_pixels(data, served.encoder("sigmoid").spec))
    assert np.array_equal(embeddings[0], embeddings[1])
    trained_on = FeatureCache(served.encoder("sigmoid"), tmp_path / "features").rows([path])[:][0]
    np.testing.assert_allclose(embeddings[0], trained_on, atol=1e-5)


@pytest.mark.slow
def test_a_killed_server_gives_an_error_not_a_hang(served, temporary_folder):
    """SIGKILL in the middle of 2,000 requests: every image gets an answer or an error, and the next call fails."""
    images = [path.read_bytes() for path in served.paths] * 8
    started = Server(served.repository, ready_timeout=600)
    with started as server, Client(server.grpc_url, heads=("mld",), timeout=60) as client:
        predictions = client.classify_many(images, concurrency=8)
        answered = [next(predictions) for _ in range(20)]
        os.kill(server.pid, signal.SIGKILL)
        rest = list(predictions)
        assert not any(prediction.error for prediction in answered)
        assert len(answered) + len(rest) == len(images)
        assert isinstance(rest[-1].error, ServerUnavailable)
        with pytest.raises(ServerUnavailable):
            client.classify(images[0])


def test_the_repository_says_what_it_serves(served):
    with Client(served.server.grpc_url) as client:
        heads = {info.name: info for info in client.heads()}
    assert set(heads) == set(HEADS)
    for name, info in heads.items():
        assert info.labels == served.runs[name].labels
        np.testing.assert_array_equal(np.array(info.thresholds, dtype=np.float32), served.runs[name].thresholds)
        assert info.spec == served.encoder(name).spec
        assert info.explains == ("reference_index" in served.runs[name].head.outputs)
        lines = (served.repository / name / "labels.txt").read_text().splitlines()
        assert tuple(lines) == info.labels
    with grpc.InferenceServerClient(served.server.grpc_url) as client:
        config = client.get_model_config("mld_bytes", as_json=True)["config"]
    assert json.loads(config["parameters"]["labels"]["string_value"]) == lines


@pytest.mark.parametrize("head", TRUSTED)
def test_served_novelty_equals_that_of_this_process(served, head):
    paths, measure = served.paths[:6], served.runs[head].novelty
    with Client(served.server.grpc_url, heads=(head,)) as client:
        info = client.heads()
        predictions = list(client.classify_many(paths))
    embedding = np.concatenate([served.features(head, path)["embedding"].numpy() for path in paths])
    found = [prediction.answers[head].novelty for prediction in predictions]
    np.testing.assert_allclose(found, measure(embedding)[:, 0], atol=1e-4)
    assert {each.name for each in info if each.novelty and each.calibrated} == set(TRUSTED)
    selected = [row["selected"] for row in served.runs[head].metrics["val"]["per_class"]]
    assert next(each for each in info if each.name == head).validation["selected"] == selected
