"""Texts in the repository: the tower's graph, the models around it, and what comes and goes with heads that read it."""

import hashlib
import shutil

import numpy as np
import onnxruntime
import open_clip
import pytest
import torch
from mlclip_export import build, export_runs
from mlclip_export.facts import EncoderFacts, Facts, TextFacts, read_configs, read_facts
from mlclip_export.layout import tokenize_names
from mlclip_export.text_graph import END, check_served_text, text_cases, write_text_encoder

from mlclip.encoders.clip import load_encoder
from mlclip.errors import ExportError

from .conftest import VISION, write_encoder_folder

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 2}
OF_TEXT = {"tokenize", "text_encoder_worded"}


@pytest.fixture(scope="module")
def worded(tmp_path_factory):
    """An encoder of CLIP's vocabulary; its tag is `worded`."""
    folder = tmp_path_factory.mktemp("encoders") / "worded"
    return load_encoder(str(write_encoder_folder(folder, VISION, text=TEXT)))


@pytest.fixture(scope="module")
def made(worded, make_run, tmp_path_factory):
    runs = {"sigmoid": make_run(worded), "fusion": make_run(worded, "fusion", 5, hidden=8)}
    folder = tmp_path_factory.mktemp("made") / "repository"
    export_runs(runs, folder, encoders=[worded])
    return folder


@pytest.fixture
def repository(made, tmp_path):
    """A head that reads texts beside one that does not."""
    return shutil.copytree(made, tmp_path / "repository")


def read(repository, model):
    return read_configs(repository)[model]


def inputs(repository, model):
    return {tensor.name: tensor.optional for tensor in read(repository, model).input}


def content(repository):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in repository.rglob("*") if path.is_file()}


def test_the_graph_computes_what_the_tower_computes(worded, tmp_path):
    write_text_encoder(worded, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    texts = ["a cat", "", "a much longer text than the tower can take", "x", "!!~"]
    ids = worded.tokenizer(texts)
    ids[1] = 0
    embedding, tokens = session.run(None, {"token_ids": ids.numpy()})
    expected = worded.encode_text_tokens(texts)
    present = np.array([True, False, True, True, True])
    np.testing.assert_allclose(embedding[present], expected[0][present], atol=1e-5)
    np.testing.assert_allclose(tokens[present], expected[1][present], atol=1e-5)
    assert not embedding[1].any() and not tokens[1].any()


def test_cases_hold_texts_of_many_lengths_and_missing_ones(worded):
    ids = torch.cat([case["token_ids"] for case, _ in text_cases(worded)])
    lengths = (ids == END).int().argmax(dim=1)[ids.any(dim=1)]
    assert len(set(lengths.tolist())) > 3
    assert (~ids.any(dim=1)).sum() == 4, "one of 3 and three of 8"
    assert ids[ids.any(dim=1)].amax(dim=1).eq(END).all(), "what marks the end is the largest id"


@pytest.mark.parametrize("tokenizer", [open_clip.tokenizer.SimpleTokenizer(clean="canonicalize"), object()])
def test_other_tokenizers_are_refused(worded, tokenizer, monkeypatch):
    check_served_text(worded)
    monkeypatch.setattr(worded, "tokenizer", tokenizer)
    with pytest.raises(ExportError, match="texts of .*worded cannot be served: the server has CLIP's tokenizer"):
        check_served_text(worded)


def test_text_towers_of_other_libraries_are_refused(worded, make_run, monkeypatch, tmp_path):
    monkeypatch.setattr(worded, "text_token_count", 0)
    with pytest.raises(ExportError, match="cannot be served"):
        export_runs({"fusion": make_run(worded, "fusion")}, tmp_path / "repository", encoders=[worded])
    assert not (tmp_path / "repository").exists()


def test_texts_go_where_they_are_read(repository):
    assert OF_TEXT <= {path.name for path in repository.iterdir()}
    for name in ("fusion", "fusion_bytes", "heads_worded", "heads_worded_bytes", "tokenize"):
        assert inputs(repository, name)["text"], f"optional in {name}"
    assert "text" not in inputs(repository, "sigmoid")
    steps = [step.model_name for step in read(repository, "fusion_bytes").ensemble_scheduling.step]
    assert steps == [
        "tokenize",
        "text_encoder_worded",
        "preprocess",
        "encoder_worded",
        "head_fusion",
        "threshold_fusion",
    ]
    text = read_facts(repository).encoders["worded"].text
    assert (text.token_count, text.token_width) == (8, 16)


def test_exporting_another_head_leaves_texts_alone(repository, worded, make_run, monkeypatch):
    monkeypatch.setattr(build, "write_text_encoder", lambda encoder, folder: pytest.fail("traced again"))
    before = content(repository)
    export_runs({"sigmoid": make_run(worded)}, repository, encoders=[worded])
    assert content(repository) == before
    export_runs({"fusion": make_run(worded, "fusion", 5, hidden=8)}, repository, encoders=[worded])
    assert content(repository) == before, "and the graph that is there is used again"


def test_the_text_tower_goes_with_the_last_head_that_reads_it(repository, worded, make_run):
    report = export_runs({"fusion": make_run(worded, "sigmoid", 5)}, repository, encoders=[worded])
    assert set(report.removed) == OF_TEXT
    assert "text" not in inputs(repository, "heads_worded")
    assert read_facts(repository).encoders["worded"].text is None


def test_towers_of_different_length_have_token_models_of_their_own(repository):
    spec = read_facts(repository).preprocess
    encoders = {
        tag: EncoderFacts(tag, tag, spec, 16, 5, 64, 8, text=text)
        for tag, text in {"a": TextFacts("a", 77, 8), "b": TextFacts("b", 8, 8), "c": None}.items()
    }
    assert tokenize_names(Facts(encoders, {})) == {8: "tokenize", 77: "tokenize_77"}
    assert tokenize_names(Facts(encoders, {}, tokenize=77)) == {8: "tokenize_8", 77: "tokenize"}
    assert tokenize_names(Facts({"c": encoders["c"]}, {})) == {}
    assert read_facts(repository).tokenize == 8
