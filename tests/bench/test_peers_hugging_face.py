"""The same weights under other names: read back by an independent forward pass, they give the same embeddings."""

import json
import math

import numpy as np
import open_clip
import pytest
import torch
from mlclip_bench.peers.catalogue import PeerError
from mlclip_bench.peers.hugging_face import model_config, processor_config, renamed, write_hugging_face
from safetensors.numpy import load_file

from mlclip.encoders.clip import load_encoder
from mlclip.encoders.folder import save

VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2}
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def make(folder, *, vision=VISION, quick_gelu=False, resize_mode="shortest"):
    """A small encoder whose every weight is random, biases and norms too: a swapped pair would show."""
    config = {"embed_dim": 16, "quick_gelu": quick_gelu, "vision_cfg": vision, "text_cfg": TEXT}
    preprocess = {"size": 32, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.model.CLIP(**config)
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    save(model, {"model_cfg": config, "preprocess_cfg": {"resize_mode": resize_mode, **preprocess}}, folder)
    return load_encoder(str(folder))


@pytest.fixture(scope="module", params=[False, True], ids=["gelu", "quick_gelu"])
def written(request, tmp_path_factory):
    """An encoder and its folder in Hugging Face's format."""
    folder = tmp_path_factory.mktemp("encoder")
    encoder = make(folder / "nano", quick_gelu=request.param)
    write_hugging_face(encoder, folder / "hugging_face")
    return encoder, folder / "hugging_face"


class Reader:
    """CLIPModel's forward pass in float64, one token and one head at a time, from nothing but its folder."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.processor = json.loads((folder / "preprocessor_config.json").read_text())
        self.weights = {k: v.astype(np.float64) for k, v in load_file(folder / "model.safetensors").items()}

    def images(self, pixels):
        """Embed uint8 pictures of the right size, [B, S, S, 3]."""
        scaled = pixels * self.processor["rescale_factor"] - self.processor["image_mean"]
        scaled = scaled / self.processor["image_std"]
        return np.stack([self.image(picture) for picture in scaled])

    def image(self, picture):
        sizes, tower, w = self.config["vision_config"], "vision_model.", self.weights
        side, kernel = sizes["patch_size"], w["vision_model.embeddings.patch_embedding.weight"]
        tokens = [w[tower + "embeddings.class_embedding"]]
        for top in range(0, sizes["image_size"], side):
            for left in range(0, sizes["image_size"], side):
                patch = picture[top : top + side, left : left + side].transpose(2, 0, 1)
                tokens.append(np.array([(patch * unit).sum() for unit in kernel]))
        tokens = np.stack(tokens) + w[tower + "embeddings.position_embedding.weight"]
        tokens = self.norm(tokens, tower + "pre_layrnorm", sizes)
        tokens = self.layers(tokens, tower, sizes, causal=False)
        return self.norm(tokens[:1], tower + "post_layernorm", sizes)[0] @ w["visual_projection.weight"].T

    def text(self, ids):
        """Embed one text, token ids up to and with the end token."""
        sizes, tower, w = self.config["text_config"], "text_model.", self.weights
        tokens = w[tower + "embeddings.token_embedding.weight"][ids]
        tokens = tokens + w[tower + "embeddings.position_embedding.weight"][: len(ids)]
        tokens = self.layers(tokens, tower, sizes, causal=True)
        assert ids.index(sizes["eos_token_id"]) == len(ids) - 1
        return self.norm(tokens[-1:], tower + "final_layer_norm", sizes)[0] @ w["text_projection.weight"].T

    def layers(self, tokens, tower, sizes, causal):
        for number in range(sizes["num_hidden_layers"]):
            layer = f"{tower}encoder.layers.{number}."
            tokens = tokens + self.attention(self.norm(tokens, layer + "layer_norm1", sizes), layer, sizes, causal)
            hidden = self.linear(self.norm(tokens, layer + "layer_norm2", sizes), layer + "mlp.fc1")
            assert hidden.shape[1] == sizes["intermediate_size"]
            tokens = tokens + self.linear(self.activation(hidden, sizes), layer + "mlp.fc2")
        return tokens

    def attention(self, tokens, layer, sizes, causal):
        q, k, v = (self.linear(tokens, f"{layer}self_attn.{name}_proj") for name in "qkv")
        width = sizes["hidden_size"] // sizes["num_attention_heads"]
        mixed = np.zeros_like(q)
        for start in range(0, sizes["hidden_size"], width):
            part = slice(start, start + width)
            for i in range(len(tokens)):
                seen = range(i + 1 if causal else len(tokens))
                weights = np.array([math.exp(q[i, part] @ k[j, part] / math.sqrt(width)) for j in seen])
                mixed[i, part] = sum(weights[j] / weights.sum() * v[j, part] for j in seen)
        return self.linear(mixed, layer + "self_attn.out_proj")

    def activation(self, values, sizes):
        if sizes["hidden_act"] == "quick_gelu":
            return values / (1 + np.exp(-1.702 * values))
        assert sizes["hidden_act"] == "gelu"
        return np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))(values)

    def linear(self, tokens, name):
        return tokens @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, tokens, name, sizes):
        centred = tokens - tokens.mean(axis=1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=1, keepdims=True) + sizes["layer_norm_eps"])
        return centred / spread * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_the_image_tower_gives_the_same_embeddings(written):
    encoder, folder = written
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(PIXELS))[0].numpy()
    assert np.abs(unit(Reader(folder).images(PIXELS)) - expected).max() < 1e-5


def test_the_text_tower_gives_the_same_embeddings(written):
    encoder, folder = written
    ids = [62, 5, 9, 30, 63]
    with torch.inference_mode():
        expected = encoder.model.encode_text(torch.tensor([[*ids, 0, 0, 0]])).numpy()[0]
    assert np.abs(unit(Reader(folder).text(ids)) - unit(expected)).max() < 1e-5


def test_the_activation_makes_a_difference_that_would_be_seen(written):
    encoder, folder = written
    reader = Reader(folder)
    kind = reader.config["vision_config"]["hidden_act"]
    reader.config["vision_config"]["hidden_act"] = {"gelu": "quick_gelu", "quick_gelu": "gelu"}[kind]
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(PIXELS))[0].numpy()
    assert np.abs(unit(reader.images(PIXELS)) - expected).max() > 1e-4


def test_transformers_gives_the_same_embeddings(written):
    transformers = pytest.importorskip("transformers")
    encoder, folder = written
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    pixels = (torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255 - encoder.mean) / encoder.std
    with torch.inference_mode():
        found = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output).numpy()
        expected = encoder(torch.from_numpy(PIXELS))[0].numpy()
    assert np.abs(unit(found) - expected).max() < 1e-5


def test_the_full_architecture_is_described_as_openai_describes_it():
    with torch.device("meta"):
        model = open_clip.model.CLIP(**open_clip.get_model_config("ViT-B-32-quickgelu"))
    config = model_config(model)
    vision, text = config["vision_config"], config["text_config"]
    assert config["projection_dim"] == 512
    assert (vision["hidden_size"], vision["intermediate_size"], vision["num_attention_heads"]) == (768, 3072, 12)
    assert (text["hidden_size"], text["intermediate_size"], text["num_attention_heads"]) == (512, 2048, 8)
    assert (vision["num_hidden_layers"], text["num_hidden_layers"]) == (12, 12)
    assert (vision["image_size"], vision["patch_size"]) == (224, 32)
    assert (text["vocab_size"], text["max_position_embeddings"], text["eos_token_id"]) == (49408, 77, 49407)
    assert vision["hidden_act"] == text["hidden_act"] == "quick_gelu"
    assert len(dict(renamed(model.state_dict()))) == 398  # as in openai/clip-vit-base-patch32, less two index buffers


def test_the_tokenizer_is_open_clips_own(written):
    _, folder = written
    tokens = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    own = open_clip.tokenizer.SimpleTokenizer()
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    assert tokens == {special.get(token, token): number for token, number in own.encoder.items()}
    merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert merges[0].startswith("#version")
    assert {tuple(line.split()): number for number, line in enumerate(merges[1:])} == own.bpe_ranks


@pytest.mark.parametrize(
    ("mode", "size"), [("shortest", {"shortest_edge": 32}), ("squash", {"height": 32, "width": 32})]
)
def test_the_processor_resizes_as_the_encoder_wants(tmp_path, mode, size):
    config = processor_config(make(tmp_path / "nano", resize_mode=mode))
    assert config["size"] == size
    assert config["crop_size"] == {"height": 32, "width": 32}
    assert config["resample"] == 3
    assert config["image_mean"] == pytest.approx([0.5, 0.4, 0.3])


def test_what_has_no_such_format_is_refused(tmp_path):
    with pytest.raises(PeerError, match="use ViT-B-32"):
        write_hugging_face(
            make(tmp_path / "resnet", vision={"image_size": 32, "layers": [1] * 4, "width": 8}), tmp_path
        )
    with pytest.raises(PeerError, match="pads its images"):
        write_hugging_face(make(tmp_path / "padding", resize_mode="longest"), tmp_path)
    with pytest.raises(PeerError, match="visual.extra has no place"):
        dict(renamed({"visual.extra": torch.zeros(1)}))
    with pytest.raises(PeerError, match="ls_1.gamma of a layer has no place"):
        dict(renamed({"visual.transformer.resblocks.0.ls_1.gamma": torch.zeros(1)}))
