"""Pre-training: captions with several true pictures, and a text tower trained against a locked image tower."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mlclip.data import write_manifest
from mlclip.encoders.clip import load_encoder
from mlclip.encoders.folder import load_image_weights, new_model
from mlclip.errors import EncoderError
from mlclip.training.pretrain import Picture, draw_caption, multi_positive_loss

WEIGHTS = "open_clip_model.safetensors"


def test_the_loss_is_clips_where_captions_are_unique():
    image, text = torch.nn.functional.normalize(torch.randn(2, 4, 8), dim=-1)
    logits = 5 * image @ text.T
    target = torch.arange(4)
    both = torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)
    found = multi_positive_loss(image, text, torch.eye(4, dtype=torch.bool), torch.tensor(5.0))
    torch.testing.assert_close(found, both / 2)


def test_a_caption_says_only_what_is_true_of_the_picture():
    picture = Picture(None, "Red bird", ("bird", "animal", "red"))
    for seed in range(50):
        text, said = draw_caption(picture, np.random.default_rng(seed))
        assert said and said <= picture.facts
        assert all(fact.removeprefix("title: ") in text for fact in said)


@pytest.fixture
def image_weights(architecture, tmp_path):
    """The image tower of another seed, as a file."""
    model, _ = new_model(architecture, seed=7)
    save_file(model.visual.state_dict(), tmp_path / "image.safetensors")
    return tmp_path / "image.safetensors"


@pytest.mark.parametrize("lock", [True, False])
def test_a_locked_image_tower_keeps_its_weights(lock, architecture, image_weights, dataset, mlclip, tmp_path):
    write_manifest(dataset, tmp_path / "data.jsonl")
    words = ["--data", tmp_path / "data.jsonl", "--architecture", architecture, "--out", tmp_path / "out"]
    words += ["--image-weights", image_weights, "--epochs", 3, "--batch-size", 8, *["--lock-image"] * lock]
    code, said, _ = mlclip("pretrain", *words)
    assert code == 0
    losses = [float(line.rpartition(" ")[2]) for line in said.splitlines() if line.startswith("epoch")]
    assert len(losses) == 3 and losses[-1] < losses[0]
    trained, start = load_file(tmp_path / "out" / WEIGHTS), load_file(image_weights)
    kept = [torch.equal(trained[f"visual.{name}"], value.half()) for name, value in start.items()]
    assert all(kept) if lock else not any(kept[:4])
    untrained = new_model(architecture, seed=0)[0].state_dict()
    assert not torch.equal(trained["text_projection"], untrained["text_projection"].half())
    assert load_encoder(str(tmp_path / "out")).embedding_width == 24


def test_weights_of_another_tower_are_refused_in_one_line(architecture, tmp_path):
    save_file({"proj": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"none")
    for name in ("other", "broken", "missing"):
        with pytest.raises(EncoderError, match=f"{name}.safetensors does not hold this image tower's weights") as error:
            load_image_weights(new_model(architecture, seed=0)[0], tmp_path / f"{name}.safetensors")
        assert "\n" not in str(error.value)
