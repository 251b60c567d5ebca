"""Frozen CLIP image encoders: uint8 pixels in, an embedding and tokens out.

An encoder is any open_clip model (CLIP and SigLIP families), by name and `pretrained` tag or file, or a folder with
`open_clip_config.json` and `open_clip_model.safetensors`, as open_clip's own `local-dir:` reads it. The folder
`models/mlclip-lite` ships with the package and is the default; only a pretrained tag uses the network.
"""

import hashlib
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from mlclip_client.pixels import DECODES, INTERPOLATIONS, PixelSpec
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from mlclip.encoders import DEFAULT_ENCODER, MODELS
from mlclip.encoders.text_tower import read_text, text_shape
from mlclip.errors import EncoderError

RANDOM = "random"
"""The `pretrained` value for seeded random weights: enough to measure speed and parity, useless for labels."""


class Encoder(nn.Module):
    """A frozen image tower with normalisation inside, and its text tower.

    Attributes:
        name: the argument of `load_encoder`: an open_clip architecture, or a folder.
        pretrained: tag, file or `random`; None for a folder, which has its own weights.
        tag: the encoder's name in files and in the model repository: `[a-z0-9_-]+`, from its name where that has such
            characters, otherwise from its fingerprint.
        embedding_width: D.
        token_count: T, as `token_width` W.
        text_token_count: L, the text tower's context length, as `text_token_width` V, 0 if its tokens are inaccessible.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, *, name: str, pretrained: str | None, tag: str, decode: str = "exact") -> None:
        super().__init__()
        self.name, self.pretrained = name, pretrained
        config: dict[str, Any] = dict(model.visual.preprocess_cfg)  # type: ignore[union-attr, arg-type]
        self.spec = replace(pixel_spec(config), decode=decode)
        self.visual: nn.Module = model.visual  # type: ignore[assignment]
        self._model = [model]  # in a list, so that the text tower is not a submodule and stays out of graphs
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()
        with torch.inference_mode():
            embedding, tokens = self(torch.zeros(1, self.spec.size, self.spec.size, 3, dtype=torch.uint8))
        self.embedding_width = embedding.shape[-1]
        self.token_count, self.token_width = map(int, tokens.shape[1:])
        self.text_token_count, self.text_token_width = text_shape(model)
        self.tag = tag or self.fingerprint[:8]

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images: pixels uint8 [B, S, S, 3], as `mlclip_client.pixels.to_pixels` makes them.

        Gives the embedding, float32 [B, D], L2-normalised, and tokens, float32 [B, T, W]: those of a transformer after
        its final norm, class token included (open_clip's own `output_tokens` drops it), or a convolutional tower's last
        map, one token per place, row by row.
        """
        images = pixels.permute(0, 3, 1, 2).to(self.std.dtype) / 255
        pooled, tokens = _tower(self.visual, (images - self.mean) / self.std)
        return F.normalize(pooled, dim=-1), tokens

    @property
    def model(self) -> nn.Module:
        """The open_clip model that both towers belong to."""
        return self._model[0]

    @property
    def sigmoid_scale(self) -> tuple[float, float] | None:
        """Scale and bias of a model that was pre-trained with a sigmoid per pair; None for others."""
        scale, bias = (getattr(self.model, name, None) for name in ("logit_scale", "logit_bias"))
        return None if scale is None or bias is None else (scale.exp().item(), bias.item())

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed texts: float32 [len(texts), D], L2-normalised."""
        features: Tensor = self._model[0].encode_text(self.tokenizer(list(texts)), normalize=True)  # type: ignore[operator]
        return features.float()

    @torch.no_grad()
    def encode_text_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embed texts and return their tokens too, as `read_text`; raises EncoderError for towers without tokens."""
        if not self.text_token_count:
            raise EncoderError(
                f"the text tower of {self.name} is not open_clip's own and gives no tokens: use its embedding only"
            )
        return read_text(self.model, self.tokenizer(list(texts)))

    @cached_property
    def tokenizer(self) -> Any:
        """open_clip's tokenizer; loaded on first use, since some families download theirs."""
        return open_clip.get_tokenizer(_open_clip_name(self.name))

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of the image tower's weights and preprocessing: equal digests mean equal features."""
        preprocessing = repr((self.spec, self.mean.tolist(), self.std.tolist()))
        return weights_digest(self.visual.state_dict(), preprocessing.replace(", decode='exact'", ""))  # older than it

    @cached_property
    def text_fingerprint(self) -> str:
        """Hex digest of the text tower's weights: equal digests mean equal features of texts."""
        text = {key: value for key, value in self.model.state_dict().items() if not key.startswith("visual.")}
        return weights_digest(text)


def load_encoder(name: str = DEFAULT_ENCODER, pretrained: str | None = None, decode: str = "exact") -> Encoder:
    """Load an encoder, which reads the pixels of a `decode` of `PixelSpec`.

    `name` is `mlclip-lite`, an open_clip architecture such as `ViT-B-32`, or a folder with an `open_clip_config.json`.
    An architecture needs `pretrained`: a tag such as `laion2b_s34b_b79k` (fetched from the hub), a weights file, or
    `random`. Raises EncoderError for an unknown name or tag, missing weights, or a folder that open_clip cannot read.
    """
    if not isinstance(name, str):
        raise EncoderError(f"an encoder is a name or a folder, such as {DEFAULT_ENCODER!r}, not {name!r}")
    folder = encoder_folder(name)
    if folder is None and name not in open_clip.list_models():
        raise EncoderError(
            f"unknown encoder {name!r}: name an open_clip model (`mlclip encoders` lists them) or a folder"
        )
    if folder is None and pretrained is None:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none known"
        raise EncoderError(f"{name} needs weights: give --pretrained a file, '{RANDOM}', or one of: {tags}")
    if folder is not None and pretrained is not None:
        raise EncoderError(f"{name} has its own weights: leave --pretrained {pretrained} out")
    if folder is not None and not any(file.suffix in (".safetensors", ".bin", ".pth") for file in folder.iterdir()):
        raise EncoderError(f"{folder} holds no weights: put open_clip_model.safetensors beside its configuration")
    if decode not in DECODES:
        raise EncoderError(f"--decode is {' or '.join(DECODES)}, not {decode!r}")
    source = None if pretrained == RANDOM else pretrained
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore", UserWarning)  # open_clip's QuickGELU hint; tags carry the right setting
            torch.manual_seed(0)
            model = open_clip.create_model(
                _open_clip_name(name), source, pretrained_image=False, pretrained_text=False,
                require_pretrained=pretrained != RANDOM,
            )  # fmt: skip
    except Exception as error:  # hub, file and shape errors come as many types
        raise EncoderError(
            f"could not load {name} ({pretrained or 'its folder'}): {str(error).splitlines()[0]}"
        ) from error
    return Encoder(model, name=name, pretrained=pretrained, tag=_tag(name, pretrained, decode), decode=decode)


def encoder_folder(name: str) -> Path | None:
    """The folder of an encoder that is shipped or on disk; None for open_clip's own names."""
    folders = (MODELS / name, Path(name))
    return next((folder for folder in folders if (folder / "open_clip_config.json").is_file()), None)


def _open_clip_name(name: str) -> str:
    folder = encoder_folder(name)
    return name if folder is None else f"local-dir:{folder}"


def _tag(name: str, pretrained: str | None, decode: str) -> str:
    parts = [
        os.path.basename(os.path.abspath(name)) if encoder_folder(name) else name,
        Path(pretrained).stem if pretrained else "",
        "" if decode == "exact" else decode,
    ]
    return re.sub(r"[^a-z0-9_]+", "-", "-".join(filter(None, parts)).lower()).strip("-")


def pixel_spec(config: dict[str, Any]) -> PixelSpec:
    """The pixels that an open_clip model takes, from its `visual.preprocess_cfg`."""
    size = config["size"]
    if isinstance(size, (tuple, list)):
        if size[0] != size[1]:
            raise EncoderError(f"this encoder takes {size[0]} x {size[1]} images; only square ones are supported")
        size = size[0]
    interpolation = config["interpolation"]
    return PixelSpec(
        size=int(size),
        interpolation=interpolation if interpolation in INTERPOLATIONS else "bicubic",  # as open_clip reads `random`
        resize_mode=config["resize_mode"],
        fill=int(config["fill_color"]),
    )


def _tower(visual: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Run an image tower: pooled and projected features [B, D], and its tokens [B, T, W] before pooling."""
    if isinstance(visual, VisionTransformer):
        hidden = visual.transformer(visual._embeds(images))
        pooled, _ = visual._pool(hidden)
        tokens = hidden if visual.attn_pool is not None else visual.ln_post(hidden)
        return (pooled if visual.proj is None else pooled @ visual.proj), tokens
    if isinstance(visual, TimmModel):
        hidden = visual.trunk.forward_features(images)
        pooled = visual.head(visual.trunk.forward_head(hidden))
        if hidden.ndim == 3:
            return pooled, hidden
        channels_last = getattr(visual.trunk, "output_fmt", "NCHW") == "NHWC"  # Swin's maps
        return pooled, hidden.flatten(1, 2) if channels_last else _places(hidden)
    if isinstance(visual, ModifiedResNet):
        hidden = visual.stem(images)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            hidden = layer(hidden)
        return visual.attnpool(hidden), _places(hidden)
    raise EncoderError(f"image towers of the kind {type(visual).__name__} are not supported")


def _places(features: Tensor) -> Tensor:
    """A map of features [B, W, H, V] as one token per place, row by row: [B, H * V, W]."""
    return features.flatten(2).transpose(1, 2)


def weights_digest(weights: Mapping[str, Tensor], start: str = "") -> str:
    """16 hex digits that identify weights, after a text."""
    digest = hashlib.sha256(start.encode())
    for key, value in sorted(weights.items()):
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
