import shutil
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from mlclip_client.pixels import PixelSpec
from safetensors.torch import load_file, save_file

from mlclip.checkpoint import EncoderRef, load_run, save_run
from mlclip.encoders import DEFAULT_ENCODER
from mlclip.encoders.clip import load_encoder, weights_digest
from mlclip.encoders.features import TEXT_KINDS, Features, Rows
from mlclip.errors import CheckpointError, EncoderError
from mlclip.heads import HEADS, Examples, FeatureShapes, LabelTexts, build_head
from mlclip.settings import Recipe
from mlclip.training.runs import train_run


def random_pixels(size, count=2):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def open_clip_embedding(model, pixels):
    config = model.visual.preprocess_cfg
    images = pixels.permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return model.encode_image((images - mean) / std, normalize=True)


def test_embedding_and_tokens_equal_open_clips_own(encoder, encoder_folder):
    model = open_clip.create_model(f"local-dir:{encoder_folder}").eval()
    pixels = random_pixels(32)
    with torch.inference_mode():
        embedding, tokens = encoder(pixels)
        torch.testing.assert_close(embedding, open_clip_embedding(model, pixels))
        model.visual.output_tokens = True
        _, patches = model.visual((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
    assert tokens.shape == (2, 17, 32)
    torch.testing.assert_close(tokens[:, 1:], patches)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


def test_the_class_token_leads_to_the_embedding(encoder):
    embedding, tokens = encoder(random_pixels(32))
    torch.testing.assert_close(torch.nn.functional.normalize(tokens[:, 0] @ encoder.visual.proj, dim=1), embedding)


def test_the_default_is_the_shipped_model():
    encoder = load_encoder()
    assert encoder.tag == DEFAULT_ENCODER
    assert encoder.spec == PixelSpec(224, "bicubic", "longest", 255)
    embedding, tokens = encoder(random_pixels(224))
    assert (embedding.shape, tokens.shape) == ((2, 1280), (2, 49, 1280))
    cat, animal, computer = encoder.encode_text(["cat", "animal", "computer"])
    assert cat @ animal > cat @ computer


@pytest.mark.parametrize(
    ("name", "tokens"), [("ViT-B-32", (50, 768)), ("RN50", (49, 2048)), ("ViT-B-16-SigLIP", (196, 768))]
)
def test_open_clip_families_by_name(name, tokens):
    encoder = load_encoder(name, "random")
    assert (encoder.token_count, encoder.token_width) == tokens
    pixels = random_pixels(224, 1)
    with torch.inference_mode():
        expected = open_clip_embedding(encoder._model[0], pixels)
        torch.testing.assert_close(encoder(pixels)[0], expected)


def test_tags_are_safe_names(encoder_folder):
    assert load_encoder(str(encoder_folder)).tag == "small"
    assert load_encoder("ViT-S-32-alt", "random").tag == "vit-s-32-alt-random"


def test_names_without_a_safe_letter_give_a_tag_all_the_same(encoder, encoder_folder, tmp_path, monkeypatch):
    shutil.copytree(encoder_folder, tmp_path / "模型")
    assert load_encoder(str(tmp_path / "模型")).tag == encoder.fingerprint[:8]
    monkeypatch.chdir(encoder_folder)
    assert load_encoder(".").tag == "small"


def test_a_folder_without_weights_is_refused(encoder_folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_bytes((encoder_folder / "open_clip_config.json").read_bytes())
    with pytest.raises(EncoderError, match="holds no weights: put open_clip_model.safetensors beside"):
        load_encoder(str(tmp_path))
    (tmp_path / "optimizer.bin").write_bytes(b"no weights")
    with pytest.raises(EncoderError, match="could not load"):
        load_encoder(str(tmp_path))


def test_an_encoder_in_a_relative_folder_is_found_from_any_folder(encoder_folder, tmp_path, monkeypatch):
    shutil.copytree(encoder_folder, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    reference = EncoderRef.of(load_encoder("mine"))
    monkeypatch.chdir(tmp_path.parent)
    assert reference.load().tag == "mine"
    shutil.move(tmp_path / "mine", tmp_path / "moved")
    with pytest.raises(CheckpointError, match=f"this run's encoder was the folder {tmp_path}/mine, which is not there"):
        reference.load()


def test_fingerprint_follows_weights_and_preprocessing(encoder, encoder_folder, tmp_path):
    assert encoder.fingerprint == load_encoder(str(encoder_folder)).fingerprint
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (tmp_path / name).write_bytes((encoder_folder / name).read_bytes())
    config = tmp_path / "open_clip_config.json"
    config.write_text(config.read_text().replace('"squash"', '"longest"'))
    assert load_encoder(str(tmp_path)).fingerprint != encoder.fingerprint
    changed = load_encoder(str(encoder_folder))
    changed.visual.ln_post.bias.data[0] += 1e-3
    assert changed.fingerprint != encoder.fingerprint


def test_fast_decoding_belongs_to_the_encoder(encoder, encoder_folder):
    spec = "PixelSpec(size=32, interpolation='bicubic', resize_mode='squash', fill=0)"
    preprocessing = f"({spec}, {encoder.mean.tolist()}, {encoder.std.tolist()})"
    assert encoder.fingerprint == weights_digest(encoder.visual.state_dict(), preprocessing), "as before it existed"
    fast = load_encoder(str(encoder_folder), decode="fast")
    assert (fast.tag, fast.spec) == (f"{encoder.tag}-fast", replace(encoder.spec, decode="fast"))
    assert fast.fingerprint != encoder.fingerprint
    assert EncoderRef.of(fast).load().spec == fast.spec
    with pytest.raises(EncoderError, match="--decode is exact or fast, not 'quick'"):
        load_encoder(str(encoder_folder), decode="quick")


def other_text_tower(folder, changed):
    """Copy an encoder's folder, with other weights of its text tower; the image tower stays."""
    shutil.copytree(folder, changed)
    weights = load_file(changed / "open_clip_model.safetensors")
    save_file(weights | {"text_projection": weights["text_projection"] * 2}, changed / "open_clip_model.safetensors")
    return load_encoder(str(changed))


def test_another_text_tower_is_noticed_by_heads_that_use_it(encoder, encoder_folder, tmp_path):
    other = other_text_tower(encoder_folder, tmp_path / "other")
    assert other.fingerprint == encoder.fingerprint
    plain, worded = EncoderRef.of(encoder), EncoderRef.of(encoder, text_tower=True)
    assert plain.fits(other) and plain.fits(encoder) and worded.fits(encoder) and not worded.fits(other)
    assert worded.load().text_fingerprint == encoder.text_fingerprint
    assert replace(plain, name=other.name).load().text_fingerprint == other.text_fingerprint
    with pytest.raises(CheckpointError, match="has another text tower than the one this head was trained on") as error:
        replace(worded, name=other.name).load()
    assert "\n" not in str(error.value)


def test_runs_of_heads_that_use_texts_note_the_text_tower(encoder, dataset, cache, tmp_path):
    notes = {name: train_run(dataset, encoder, cache, Recipe(name)) for name in ("zeroshot", "knn1")}
    assert notes["zeroshot"].encoder.text_fingerprint == encoder.text_fingerprint
    assert notes["knn1"].encoder.text_fingerprint is None
    save_run(tmp_path / "run", notes["zeroshot"])
    assert load_run(tmp_path / "run").encoder == notes["zeroshot"].encoder


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in HEADS), ("mld", {"queries": "text"})])
def test_every_head_says_whether_it_uses_the_text_tower(name, options):
    """Those that ask for texts when they are prepared, or read texts with the images."""
    asked = []

    def encode(texts):
        asked.extend(texts)
        return torch.nn.functional.normalize(torch.ones(len(texts), 8), dim=1)

    head = build_head(name, 2, FeatureShapes(8, 3, 8, 5, 8), **options)
    rng = np.random.default_rng(0)
    tables = tuple(
        Rows(rng.normal(size=(6, 3, 8) if kind.endswith("tokens") else (6, 8)).astype(np.float32), np.arange(6))
        for kind in head.inputs
    )
    images = Examples(Features(tables), rng.integers(0, 2, (6, 2), dtype=np.uint8), tuple("abcdef"))
    with torch.no_grad():
        head.prepare(images, images, LabelTexts(("x", "y"), encode), 0)
    assert head.uses_text_tower == bool(asked or set(TEXT_KINDS) & set(head.inputs))


def test_random_weights_are_the_same_every_time():
    assert load_encoder("ViT-S-32-alt", "random").fingerprint == load_encoder("ViT-S-32-alt", "random").fingerprint


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-33", None, "unknown encoder 'ViT-B-33'"),
        ("ViT-B-32", None, "needs weights: give --pretrained a file, 'random', or one of: openai"),
        ("ViT-B-32", "/nowhere/weights.safetensors", "could not load ViT-B-32"),
        ("mlclip-lite", "openai", "has its own weights"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(name, pretrained, message):
    with pytest.raises(EncoderError, match=message) as error:
        load_encoder(name, pretrained)
    assert "\n" not in str(error.value)
