"""An open_clip ViT as a folder in Hugging Face's CLIPModel format: the same weights, under other names.

The layers are the same in both libraries (Radford et al. 2021, https://arxiv.org/abs/2103.00020). Two things differ:
one packed projection for query, key and value here, three there; projections to the shared space are plain matrices
here and transposed linear layers there. The tokenizer is CLIP's own, made from open_clip's vocabulary.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import open_clip
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import QuickGELU, VisionTransformer
from safetensors.torch import save_file
from torch import Tensor, nn

from mlclip.encoders.clip import Encoder
from mlclip_bench.peers.catalogue import PeerError

_TOWERS = {
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}
_WHOLE = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.": "text_model.final_layer_norm.",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.": "vision_model.embeddings.patch_embedding.",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",  # so spelt there
    "visual.ln_post.": "vision_model.post_layernorm.",
}
_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
_IN_LAYER = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
_PACKED = "attn.in_proj_"
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_RESAMPLING = {"bilinear": 2, "bicubic": 3}


def write_hugging_face(encoder: Encoder, folder: Path) -> None:
    """Write an encoder with a ViT and CLIP's own text tower in Hugging Face's format; raises PeerError for others."""
    model = encoder.model
    config = model_config(model)
    weights = dict(renamed(model.state_dict()))
    processor = processor_config(encoder)
    start, end = _SPECIAL
    tokenizer = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": config["text_config"]["max_position_embeddings"],
        "bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in (
        ("config.json", config),
        ("preprocessor_config.json", processor),
        ("tokenizer_config.json", tokenizer),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    _write_vocabulary(folder)


def renamed(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The weights of open_clip's CLIP under CLIPModel's names, float32; raises PeerError if one has no place."""
    for key, value in state.items():
        for name, tensor in _placed(key, value):
            yield name, tensor.float().contiguous()


def model_config(model: nn.Module) -> dict[str, Any]:
    """The content of CLIPModel's config.json; sizes are read from the weights. Raises PeerError for other models."""
    visual: Any = getattr(model, "visual", None)
    if not (type(model) is open_clip.model.CLIP and isinstance(visual, VisionTransformer) and visual.attn_pool is None):
        raise PeerError("only CLIP models with a ViT and CLIP's own text tower have a CLIPModel format: use ViT-B-32")
    text: Any = model
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": "float32",
        "torch_dtype": "float32",
        "projection_dim": visual.output_dim,
        "vision_config": _tower(visual.transformer)
        | {
            "model_type": "clip_vision_model",
            "image_size": visual.image_size[0],
            "patch_size": visual.patch_size[0],
            "projection_dim": visual.output_dim,
        },
        "text_config": _tower(text.transformer)
        | {
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "projection_dim": visual.output_dim,
            "bos_token_id": text.vocab_size - 2,
            "eos_token_id": text.vocab_size - 1,
            "pad_token_id": text.vocab_size - 1,
        },
    }


def processor_config(encoder: Encoder) -> dict[str, Any]:
    """The content of CLIPImageProcessor's preprocessor_config.json; raises PeerError if the encoder pads its images."""
    spec = encoder.spec
    if spec.resize_mode == "longest":
        raise PeerError("this encoder pads its images, and CLIPImageProcessor does not: use ViT-B-32")
    square = {"height": spec.size, "width": spec.size}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": spec.size} if spec.resize_mode == "shortest" else square,
        "resample": _RESAMPLING[spec.interpolation],
        "do_center_crop": True,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": encoder.mean.flatten().tolist(),
        "image_std": encoder.std.flatten().tolist(),
    }


def _placed(key: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    if key in _TRANSPOSED:
        yield _TRANSPOSED[key], value.T
        return
    for old, new in _TOWERS.items():
        if key.startswith(old):
            number, _, rest = key.removeprefix(old).partition(".")
            yield from _in_layer(f"{new}{number}.", rest, value)
            return
    for old, new in _WHOLE.items():
        if key == old or (old.endswith(".") and key.startswith(old)):
            yield new + key.removeprefix(old), value
            return
    raise PeerError(f"the weight {key} has no place in a CLIPModel: use ViT-B-32")


def _in_layer(layer: str, rest: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    if rest.startswith(_PACKED):
        for name, part in zip("qkv", value.chunk(3), strict=True):
            yield f"{layer}self_attn.{name}_proj.{rest.removeprefix(_PACKED)}", part
        return
    for old, new in _IN_LAYER.items():
        if rest.startswith(old):
            yield layer + new + rest.removeprefix(old), value
            return
    raise PeerError(f"the weight {rest} of a layer has no place in a CLIPModel: use ViT-B-32")


def _tower(transformer: Any) -> dict[str, Any]:
    """Sizes of one tower; the activation is read from its modules, as the tag of the weights may have changed it."""
    block = transformer.resblocks[0]
    quick = isinstance(block.mlp.gelu, QuickGELU)
    return {
        "hidden_size": transformer.width,
        "intermediate_size": block.mlp.c_fc.out_features,
        "num_hidden_layers": transformer.layers,
        "num_attention_heads": block.attn.num_heads,
        "hidden_act": "quick_gelu" if quick else "gelu",
        "layer_norm_eps": block.ln_1.eps,
        "attention_dropout": 0.0,
    }


def _write_vocabulary(folder: Path) -> None:
    tokenizer = SimpleTokenizer()
    names = dict(zip(tokenizer.all_special_ids, _SPECIAL, strict=True))  # Hugging Face's names of start and end
    tokens = {names.get(number, token): number for token, number in tokenizer.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    merges = "".join(f"{' '.join(pair)}\n" for pair in tokenizer.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
