"""Fine-tuning both towers: what is trained, what a run folder then holds, and who reads it."""

import copy
import json
import logging
import math
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch

from mlclip.checkpoint import load_run, save_run
from mlclip.classifier import MultiLabelClassifier
from mlclip.encoders.clip import Encoder, load_encoder
from mlclip.encoders.features import FeatureCache
from mlclip.encoders.folder import save_encoder
from mlclip.errors import CheckpointError, EncoderError, TrainError
from mlclip.settings import Recipe, ThresholdConfig, TrainConfig
from mlclip.training.finetune import duration
from mlclip.training.runs import evaluate_run, retune_run, train_run

QUICK = TrainConfig(lr=5e-4, epochs=12, patience=12, batch_size=8)


@pytest.fixture(scope="module")
def run(dataset, encoder, cache):
    return train_run(dataset, encoder, cache, Recipe("siglip", {}, QUICK))


def test_it_learns_what_can_be_seen(run, dataset, cache):
    assert evaluate_run(run, dataset, cache).mean_average_precision > 0.8, "chance is about 0.45"
    assert run.training["epochs_run"] == 12


def test_both_towers_are_trained_and_the_first_encoder_stays(run, encoder, encoder_folder):
    trained, untouched = run.encoder.load(), load_encoder(str(encoder_folder))
    for key, value in untouched.model.state_dict().items():
        assert torch.equal(encoder.model.state_dict()[key], value), key
    moved = [
        name
        for name, value in trained.model.named_parameters()
        if not torch.equal(value, untouched.model.state_dict()[name])
    ]
    for part in ("visual.conv1", "visual.proj", "token_embedding", "text_projection", "transformer.resblocks.0.mlp"):
        assert any(name.startswith(part) for name in moved), part


def test_the_heads_texts_are_those_of_the_trained_tower(run):
    expected = run.encoder.load().encode_text([f"a photo of a {label}" for label in run.labels])
    torch.testing.assert_close(run.head.texts, expected)


def test_equal_seeds_give_equal_weights(dataset, encoder, cache):
    short = replace(QUICK, epochs=1)
    first, second = (train_run(dataset, encoder, cache, Recipe("siglip", {}, short)) for _ in range(2))
    assert first.encoder.fingerprint == second.encoder.fingerprint
    assert all(torch.equal(value, second.head.state_dict()[key]) for key, value in first.head.state_dict().items())
    other = train_run(dataset, encoder, cache, Recipe("siglip", {}, replace(short, seed=1)))
    assert other.encoder.fingerprint != first.encoder.fingerprint
    assert first.encoder.tag.startswith("small-siglip-") and first.encoder.tag != other.encoder.tag


def test_a_run_brings_its_encoder_wherever_it_is_moved(run, dataset, cache, tmp_path):
    save_run(tmp_path / "here", run)
    (tmp_path / "here").rename(tmp_path / "there")
    again = load_run(tmp_path / "there")
    assert (again.encoder, again.labels) == (run.encoder, run.labels)
    encoder = again.encoder.load()
    assert (encoder.tag, encoder.fingerprint) == (run.encoder.tag, run.encoder.fingerprint)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(encoder(pixels)[0], run.encoder.load()(pixels)[0])
    torch.testing.assert_close(encoder.encode_text(["a photo of a red"])[0], run.head.texts[2])
    assert str(tmp_path) not in (tmp_path / "there" / "config.json").read_text()


def test_a_run_that_was_read_can_be_saved_in_place_and_elsewhere(run, dataset, cache, tmp_path):
    save_run(tmp_path / "run", run)
    read = load_run(tmp_path / "run")
    save_run(tmp_path / "run", retune_run(read, dataset, cache, ThresholdConfig("global")))
    save_run(tmp_path / "copy", read)
    for folder in ("run", "copy"):
        assert load_run(tmp_path / folder).encoder.load().fingerprint == run.encoder.fingerprint


def test_a_lost_encoder_is_named(run, tmp_path):
    save_run(tmp_path / "run", run)
    weights = tmp_path / "run" / "encoder" / "open_clip_model.safetensors"
    other = load_encoder()
    save_encoder(other, tmp_path / "run" / "encoder")
    with pytest.raises(CheckpointError, match="is not the one this head was trained on"):
        load_run(tmp_path / "run").encoder.load()
    weights.unlink()
    with pytest.raises(EncoderError, match="run/encoder holds no weights"):
        load_run(tmp_path / "run").encoder.load()


def test_a_cache_of_the_first_encoder_is_exchanged(run, dataset, cache):
    own = cache.of(run.encoder.load())
    given, right = (evaluate_run(run, dataset, which).mean_average_precision for which in (cache, own))
    assert given == right
    assert own.folder.parent == cache.folder.parent and own.folder != cache.folder


def test_the_classifier_predicts_with_the_trained_encoder(pictures, encoder, cache, run, dataset, monkeypatch):
    paths, labels = pictures
    classifier = MultiLabelClassifier("siglip", encoder, training=replace(QUICK, epochs=1), cache=cache.root)
    classifier.fit(paths[:40], labels[:40])
    scores = classifier.predict_proba(paths[40:45])
    pixels = classifier.run_.encoder.load()
    own = FeatureCache(pixels, cache.root).rows(paths[40:45])[:]
    expected = torch.from_numpy(own) @ classifier.run_.head.texts.T
    expected = expected * classifier.run_.head.log_scale.exp() + classifier.run_.head.bias
    np.testing.assert_allclose(scores, expected.sigmoid().numpy(), atol=1e-6)


def test_a_checkpoint_trained_with_a_sigmoid_says_where_to_start(dataset, encoder, cache):
    assert encoder.sigmoid_scale is None
    model = copy.deepcopy(encoder.model)
    model.logit_scale.data.fill_(math.log(20.0))
    model.logit_bias = torch.nn.Parameter(torch.tensor(-6.0))
    other = Encoder(model, name=encoder.name, pretrained=None, tag=encoder.tag)
    head = train_run(dataset, other, cache, Recipe("siglip", {}, replace(QUICK, epochs=1, lr=1e-9))).head
    assert (head.log_scale.exp().item(), head.bias.item()) == pytest.approx((20.0, -6.0), rel=1e-3)


def test_classes_beyond_the_text_batch_are_sampled(dataset, encoder, cache):
    training = replace(QUICK, epochs=1, batch_size=2)
    run = train_run(dataset, encoder, cache, Recipe("siglip", {"text_batch": 1}, training))
    assert run.head.texts.norm(dim=1).tolist() == pytest.approx([1] * 4)


def test_it_says_how_long_it_will_take_and_recommends_a_gpu_for_long(dataset, encoder, cache, caplog, monkeypatch):
    monkeypatch.setattr("mlclip.training.finetune.LONG", 0)
    with caplog.at_level(logging.INFO, logger="mlclip"):
        train_run(dataset, encoder, cache, Recipe("siglip", {}, replace(QUICK, epochs=1)))
    said = [record.getMessage() for record in caplog.records if "epochs take about" in record.getMessage()]
    assert len(said) == 1 and said[0].startswith("fine-tuning: 1 epochs take about ")
    for words in ("pictures are decoded", "a GPU is recommended"):
        assert any(words in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 min"), (12600, "3.5 h"), (7.2e6, "2,000.0 h")])
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_what_cannot_work_is_said(dataset, encoder, cache, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    items = (replace(dataset.split("train").items[0], path=broken), *dataset.items)
    with pytest.raises(TrainError, match=r"broken.png.*remove it"):
        train_run(replace(dataset, items=items), encoder, cache, Recipe("siglip", {}, QUICK))
    bare = tuple(replace(item, labels=() if item.split == "val" else item.labels) for item in dataset.items)
    with pytest.raises(TrainError, match="images with labels in `val`"):
        train_run(replace(dataset, items=bare), encoder, cache, Recipe("siglip", {}, QUICK))
    with pytest.raises(TrainError, match="lower --lr"):
        train_run(dataset, encoder, cache, Recipe("siglip", {}, replace(QUICK, lr=1e30)))


def test_a_named_architecture_can_be_saved_and_read(architecture, tmp_path):
    """Its folder's configuration comes from open_clip's own table."""
    (tmp_path / "small-named.json").write_text(json.dumps(json.loads(architecture.read_text())["model_cfg"]))
    open_clip.add_model_config(tmp_path / "small-named.json")
    named = load_encoder("small-named", "random")
    named.model.half().float()
    save_encoder(named, tmp_path / "encoder")
    again, pixels = load_encoder(str(tmp_path / "encoder")), torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    assert again.spec == named.spec and again.spec.resize_mode == "shortest"
    assert torch.equal(again(pixels)[0], named(pixels)[0])
    assert torch.equal(again.encode_text(["a dog"]), named.encode_text(["a dog"]))


def test_a_tokenizer_that_comes_as_files_goes_into_the_folder(encoder_folder, tmp_path):
    class Files:
        def save_pretrained(self, folder):
            (folder / "tokenizer.json").write_text("{}")

    encoder = load_encoder(str(encoder_folder))
    encoder.tokenizer = type("HFTokenizer", (), {"tokenizer": Files()})()
    save_encoder(encoder, tmp_path / "encoder")
    assert (tmp_path / "encoder" / "tokenizer.json").is_file()
    assert load_encoder(str(tmp_path / "encoder")).fingerprint == encoder.fingerprint
