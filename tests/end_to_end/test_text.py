"""Texts beside images, from the crawler's file of titles to labels, through a real Triton."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import tritonclient.grpc as grpc
from mlclip_client import Captioned, Client
from mlclip_client.pixels import to_pixels
from mlclip_export import export_runs
from mlclip_serve import Server

from mlclip import load_encoder
from mlclip.checkpoint import EncoderRef, Run
from mlclip.encoders.folder import save
from mlclip.heads import FeatureShapes, build_head
from mlclip.heads.base import first_output, to_scores

LABELS = ("animal", "building", "flower")
TEXTS = [
    "a red flower",
    None,
    "caf\u00e9 &amp; \u201cquotes\u201d!!",
    "",
    "many words " * 40,
    "\U0001f600 \u65e5\u672c\u8a9e",
]
DATA = Path(__file__).parents[2] / "demo" / "data"
HEADS = {"sigmoid": {}, "fusion": {"text_dropout": 0.0}, "attentive": {"mode": "attention", "head": "gmlp"}}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A small one with random weights; its tag is `worded`."""
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
    text = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    preprocess = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    folder = tmp_path_factory.mktemp("encoders") / "worded"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save(open_clip.model.CLIP(**config), {"model_cfg": config, "preprocess_cfg": preprocess}, folder)
    return load_encoder(str(folder))


@pytest.fixture(scope="module")
def runs(encoder):
    """One head without text and two with, all with random weights."""
    shapes = FeatureShapes(
        encoder.embedding_width,
        encoder.token_count,
        encoder.token_width,
        encoder.text_token_count,
        encoder.text_token_width,
    )
    made = {}
    for seed, (name, options) in enumerate(HEADS.items()):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            head = build_head("sigmoid" if name == "sigmoid" else "fusion", len(LABELS), shapes, **options)
        thresholds = np.full(len(LABELS), 0.5, dtype=np.float32)
        made[name] = Run(head.eval().requires_grad_(False), LABELS, thresholds, EncoderRef.of(encoder))
    return made


@pytest.fixture(scope="module")
def server(encoder, runs, tmp_path_factory):
    repository = tmp_path_factory.mktemp("texts") / "model_repository"
    export_runs(runs, repository, encoders=[encoder])
    with Server(repository, ready_timeout=600) as running:
        yield running


@pytest.fixture(scope="module")
def paths():
    return sorted((DATA / "images").iterdir())[: len(TEXTS)]


@torch.inference_mode()
def expected(encoder, run, paths, texts):
    """Scores float32 [R, N] that this process computes with open_clip's own tokenizer."""
    pixels = np.stack([to_pixels(path.read_bytes(), encoder.spec) for path in paths])
    embedding, tokens = encoder(torch.from_numpy(pixels))
    text_embedding, text_tokens = encoder.encode_text_tokens([text or "" for text in texts])
    present = torch.tensor([bool(text) for text in texts])
    features = {"embedding": embedding, "tokens": tokens, "text_embedding": text_embedding * present[:, None],
                "text_tokens": text_tokens * present[:, None, None]}  # fmt: skip
    return to_scores(run.head, first_output(run.head, [features[kind] for kind in run.head.inputs])).numpy()


@pytest.mark.parametrize("via", ["bytes", "pixels"])
def test_texts_reach_the_heads_that_read_them(server, encoder, runs, paths, via):
    with Client(server.grpc_url, heads=tuple(HEADS), via=via) as client:
        assert {info.name: info.reads_text for info in client.asked_heads()} == {
            "sigmoid": False, "fusion": True, "attentive": True,
        }  # fmt: skip
        items = [Captioned(path, text) for path, text in zip(paths, TEXTS, strict=True)]
        predictions = list(client.classify_many(items))
        assert [prediction.error for prediction in predictions] == [None] * len(paths)
    for name, run in runs.items():
        scores = np.stack([prediction.answers[name].scores for prediction in predictions])
        np.testing.assert_allclose(scores, expected(encoder, run, paths, TEXTS), atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_one_head_alone_with_and_without_a_text(server, encoder, runs, paths, head):
    with Client(server.grpc_url, heads=(head,)) as client:
        for text in ("a red flower", None):
            scores = client.classify(paths[0], text).answers[head].scores
            np.testing.assert_allclose(scores, expected(encoder, runs[head], paths[:1], [text])[0], atol=1e-4)


def tensor(name, data_type, value):
    made = grpc.InferInput(name, list(value.shape), data_type)
    made.set_data_from_numpy(value)
    return made


def a_text(words):
    return tensor("text", "BYTES", np.array([[words.encode()]], dtype=np.object_))


def a_picture(path, via, spec):
    if via == "pixels":
        return tensor("pixels", "UINT8", to_pixels(path.read_bytes(), spec)[None])
    return tensor("image", "BYTES", np.array([[path.read_bytes()]], dtype=np.object_))


def ask(server, model, inputs, output):
    """One raw request, as any language can make it."""
    with grpc.InferenceServerClient(server.grpc_url) as client:
        outputs = [grpc.InferRequestedOutput(output)]
        return client.infer(model, inputs, outputs=outputs, client_timeout=60).as_numpy(output)


def test_a_request_without_text_is_whole(server, encoder, runs, paths):
    """As a client may ask that knows nothing of texts; empty and missing are the same."""
    picture = a_picture(paths[0], "bytes", encoder.spec)
    answers = [ask(server, "attentive_bytes", given, "scores") for given in ([picture], [picture, a_text("")])]
    assert np.array_equal(*answers)
    np.testing.assert_allclose(answers[0], expected(encoder, runs["attentive"], paths[:1], [None]), atol=1e-4)


@pytest.mark.parametrize("text", [None, "a red flower"])
@pytest.mark.parametrize("via", ["bytes", "pixels"])
@pytest.mark.parametrize("head", HEADS)
def test_any_one_head_of_the_combined_ensemble_answers(server, encoder, runs, paths, head, via, text):
    """With and without a text, whether the one head reads it or not: Triton leaves out the other steps."""
    inputs = [a_picture(paths[0], via, encoder.spec), *([a_text(text)] if text else [])]
    model = "heads_worded" + ("_bytes" if via == "bytes" else "")
    scores = ask(server, model, inputs, f"{head}_scores")
    np.testing.assert_allclose(scores, expected(encoder, runs[head], paths[:1], [text]), atol=1e-4)


def test_heads_that_read_no_text_cost_no_text_encoder(server, paths, settled):
    def text_passes():
        with grpc.InferenceServerClient(server.grpc_url) as client:
            statistics = client.get_inference_statistics("text_encoder_worded")
        return statistics.model_stats[0].inference_count

    with Client(server.grpc_url, heads=("sigmoid",)) as one, Client(server.grpc_url, heads=tuple(HEADS)) as all_heads:
        before = settled(text_passes)
        one.classify(paths[0], "a red flower")
        assert settled(text_passes) == before
        all_heads.classify(paths[0], "a red flower")
        assert settled(text_passes, before + 1) == before + 1


def run_classify(server, *arguments):
    command = [sys.executable, "-m", "mlclip_client", "classify", "--url", server.grpc_url, "--out", "-"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_titles_come_from_a_file(server, encoder, runs, paths, suffix, tmp_path):
    for path in paths:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rows = [(path.name, text) for path, text in zip(paths, TEXTS, strict=True) if text]
    titles = tmp_path / f"titles{suffix}"
    if suffix == ".csv":
        titles.write_text("text,path\n" + "".join(f'"{text}",{name}\n' for name, text in rows))
    else:
        titles.write_text("".join(json.dumps({"path": name, "text": text}) + "\n" for name, text in rows))
    done = run_classify(server, tmp_path, "--head", "fusion", "--texts", titles, "--scores")
    assert done.returncode == 0, done.stderr
    assert "4 have one of the 4 texts" in done.stderr
    scores = [json.loads(line)["answers"]["fusion"]["all_scores"] for line in done.stdout.splitlines()]
    np.testing.assert_allclose(scores, expected(encoder, runs["fusion"], paths, TEXTS), atol=1e-4)


def test_titles_for_heads_that_read_none_are_wrong_usage(server, paths, tmp_path):
    (tmp_path / "titles.csv").write_text("path,text\n")
    done = run_classify(server, paths[0], "--head", "sigmoid", "--texts", tmp_path / "titles.csv")
    assert (done.returncode, done.stderr) == (2, "error: --texts: no head among sigmoid reads text\n")
