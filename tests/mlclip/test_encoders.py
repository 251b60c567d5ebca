import numpy as np
import open_clip
import pytest
import torch
from mlclip_client.pixels import PixelSpec

from mlclip.encoders import DEFAULT_ENCODER, load_encoder
from mlclip.errors import EncoderError


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
    assert encoder.spec == PixelSpec(64, "bicubic", "squash")
    embedding, tokens = encoder(random_pixels(64))
    assert (embedding.shape, tokens.shape) == ((2, 192), (2, 65, 256))
    cat, animal, computer = encoder.encode_text(["cat", "animal", "computer"])
    assert cat @ animal > cat @ computer


@pytest.mark.parametrize(
    ("name", "tokens"), [("ViT-B-32", (50, 768)), ("RN50", (0, 0)), ("ViT-B-16-SigLIP", (196, 768))]
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


def test_random_weights_are_the_same_every_time():
    assert load_encoder("ViT-S-32-alt", "random").fingerprint == load_encoder("ViT-S-32-alt", "random").fingerprint


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-33", None, "unknown encoder 'ViT-B-33'"),
        ("ViT-B-32", None, "needs weights: give --pretrained a file, 'random', or one of: openai"),
        ("ViT-B-32", "/nowhere/weights.safetensors", "could not load ViT-B-32"),
        ("mlclip-tiny", "openai", "brings its own weights"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(name, pretrained, message):
    with pytest.raises(EncoderError, match=message) as error:
        load_encoder(name, pretrained)
    assert "\n" not in str(error.value)
