"""Image and text together: their embeddings are fused, and a classifier reads the labels from the result.

Guo, "Multimodal Multilabel Classification by CLIP", compares fusion methods and classification heads on CLIP's
two embeddings. v is the image's embedding, t its text's (a title, a caption). Where an image has no text, a
learned vector replaces t; training drops some texts so that this vector is learned.
"""

import math
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlclip.heads.base import Growth, Head
from mlclip.heads.growth import joined_rows
from mlclip.heads.values import Choice, FeatureShapes, Range, check_choice
from mlclip.settings import TrainConfig

MODES = ("concat", "sum", "product", "gated", "attention")
HEAD_KINDS = ("linear", "mlp", "gmlp")


class FusionHead(Head):
    """Fuse image and text, then classify.

    Modes: `concat` [v; t]; `sum` v + t; `product` v * t; `gated` g * v + (1 - g) * t with g = sigmoid(W [v; t] + b);
    `attention` [v; t; a], where a is the mean of the text tokens' cross attention to the image's tokens. Heads:
    `linear`; `mlp`, one hidden layer with GELU; `gmlp`, a block with spatial gating over two or three positions: v, t
    and, except for `concat`, the fused vector.

    Args:
        width: D, of both embeddings.
        mode: how the two are fused; see above.
        head: the classifier; see above.
        hidden: units of `mlp`, or channels of the gating block of `gmlp`, an even number.
        dropout: on the head's input, in training.
        text_dropout: share of the texts that training drops.
        scale: factor on the embeddings; None means sqrt(D), as for the head `sigmoid`.
        attention_heads: heads of the cross attention; must divide D.
        token_width: W of the image's tokens, for `attention`.
        text_token_width: V of the text's tokens, for `attention`.
    """

    name = "fusion"
    source = "003"
    uses_text_tower = True
    defaults = TrainConfig(lr=1e-3, epochs=100, patience=15, weight_decay=1e-5)
    search = {
        "mode": Choice(MODES),
        "head": Choice(HEAD_KINDS),
        "hidden": Choice((128, 256, 512)),
        "dropout": Choice((0.0, 0.3, 0.5)),
        "training.lr": Range(1e-4, 1e-2, log=True),
    }

    def __init__(
        self,
        classes: int,
        width: int,
        *,
        mode: str = "gated",
        head: str = "mlp",
        hidden: int = 256,
        dropout: float = 0.3,
        text_dropout: float = 0.3,
        scale: float | None = None,
        attention_heads: int = 4,
        token_width: int = 0,
        text_token_width: int = 0,
    ) -> None:
        super().__init__()
        check_choice("mode", mode, MODES)
        check_choice("head", head, HEAD_KINDS)
        if hidden < 2 or (head == "gmlp" and hidden % 2):
            raise ValueError(f"hidden must be at least 2, and even for gmlp, not {hidden}")
        for option, share in (("dropout", dropout), ("text_dropout", text_dropout)):
            if not 0 <= share < 1:
                raise ValueError(f"{option} must be at least 0 and below 1, not {share:g}")
        self.scale = math.sqrt(width) if scale is None else scale
        self.text_dropout = text_dropout
        self.config = {
            "classes": classes, "width": width, "mode": mode, "head": head, "hidden": hidden, "dropout": dropout,
            "text_dropout": text_dropout, "scale": self.scale, "attention_heads": attention_heads,
            "token_width": token_width, "text_token_width": text_token_width,
        }  # fmt: skip
        self.inputs = ("embedding", "text_embedding")
        self.missing = nn.Parameter(torch.ones(width))
        if mode == "gated":
            self.gate = nn.Linear(2 * width, width)
        if mode == "attention":
            self.inputs = ("embedding", "text_embedding", "tokens", "text_tokens")
            self.missing_token = nn.Parameter(torch.randn(text_token_width))
            self.attention = CrossAttention(text_token_width, token_width, width, attention_heads)
        fused = mode in ("sum", "product", "gated")
        positions = 3 if mode == "attention" or (fused and head == "gmlp") else 1 if fused else 2
        self.dropout = nn.Dropout(dropout)
        self.classify = _classifier(head, positions, width, hidden, classes)

    @classmethod
    def build(cls, classes: int, shapes: FeatureShapes, **options: Any) -> Self:
        """Build for an encoder's feature widths; `mode="attention"` needs tokens of texts."""
        if options.get("mode") != "attention":
            return cls(classes, shapes.embedding_width, **options)
        if not shapes.text_token_count:
            raise ValueError("this encoder gives no tokens of texts: use another --mode")
        if shapes.embedding_width % options.get("attention_heads", 4):
            raise ValueError(f"attention_heads must divide the embedding's width {shapes.embedding_width}")
        options |= {"token_width": shapes.token_width, "text_token_width": shapes.text_token_width}
        return cls(classes, shapes.embedding_width, **options)

    def extended(self, growth: Growth) -> Self:
        """New rows of the last layer, trained on their own; everything before it stays."""
        last = f"classify.{len(self.classify) - 1}."
        kept = {name: value for name, value in self.state_dict().items() if not name.startswith(last)}
        new = self.rebuilt(classes=len(growth.new_labels))
        new.load_state_dict(new.state_dict() | kept)
        for name, parameter in new.named_parameters():
            parameter.requires_grad_(name not in kept)
        growth.fit(new)
        rows = {name: value for name, value in self.state_dict().items() if name not in kept}
        whole = self.rebuilt(classes=len(growth.texts.labels))
        whole.load_state_dict(kept | joined_rows(rows, new.state_dict()))
        return whole

    def forward(
        self,
        embedding: Tensor,
        text_embedding: Tensor,
        tokens: Tensor | None = None,
        text_tokens: Tensor | None = None,
    ) -> Tensor:
        """Embeddings float32 [B, D], for `attention` with tokens [B, T, W] and [B, L, V], to logits [B, N].

        A text embedding of zeros means no text; text tokens are zeros after a text's end.
        """
        present = text_embedding.abs().amax(dim=1, keepdim=True) > 0
        if self.training:
            present = present & (torch.rand_like(text_embedding[:, :1]) >= self.text_dropout)
        v, t = embedding * self.scale, torch.where(present, text_embedding * self.scale, self.missing)
        if tokens is None or text_tokens is None:
            return self._logits(self._fuse(v, t))
        first = torch.arange(text_tokens.shape[1], device=text_tokens.device) == 0
        valid = (present & (text_tokens.abs().amax(dim=2) > 0)) | (~present & first)
        text_tokens = torch.where(present[:, :, None], text_tokens, self.missing_token)
        return self._logits([v, t, self.attention(text_tokens, valid, tokens)])

    def _fuse(self, v: Tensor, t: Tensor) -> list[Tensor]:
        """The positions that the head reads, each [B, D]."""
        mode = self.config["mode"]
        if mode == "concat":
            return [v, t]
        if mode == "gated":
            gate = self.gate(torch.cat([v, t], dim=1)).sigmoid()
            fused = gate * v + (1 - gate) * t
        else:
            fused = v + t if mode == "sum" else v * t
        return [v, t, fused] if self.config["head"] == "gmlp" else [fused]

    def _logits(self, positions: list[Tensor]) -> Tensor:
        logits: Tensor = self.classify(self.dropout(torch.stack(positions, dim=1)))
        return logits


class CrossAttention(nn.Module):
    """The text's tokens (width V) attend to the image's tokens (W); the mean result (D) is normalised."""

    def __init__(self, text_width: int, image_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(text_width, width), nn.Linear(image_width, 2 * width)
        self.out, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, text_tokens: Tensor, valid: Tensor, tokens: Tensor) -> Tensor:
        """Text tokens [B, L, V], of which those that are `valid` [B, L] count, on tokens [B, T, W]: [B, D]."""
        query = self._split(self.query(text_tokens))
        key, value = (self._split(part) for part in self.key_value(tokens).chunk(2, dim=-1))
        answers = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        weight = valid.to(answers.dtype)[:, :, None]
        mean = (answers * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)
        output: Tensor = self.norm(self.out(mean))
        return output

    def _split(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(2, (self.heads, -1))
        return split.transpose(1, 2)


class GatedBlock(nn.Module):
    """A gMLP block (Liu et al. 2021, "Pay Attention to MLPs", https://arxiv.org/abs/2105.08050) and its mean.

    Half of the hidden channels, mixed across P positions, gate the other half; initially the gate is open.
    """

    def __init__(self, positions: int, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.gate_norm = nn.LayerNorm(width), nn.LayerNorm(hidden // 2)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden // 2, width)
        self.mix = nn.Parameter(torch.randn(positions, positions) * 1e-3)
        self.mix_bias = nn.Parameter(torch.ones(positions, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Positions [B, P, D] to [B, D]."""
        through, gate = F.gelu(self.up(self.norm(x))).chunk(2, dim=-1)
        gate = self.mix @ self.gate_norm(gate) + self.mix_bias
        mean: Tensor = (x + self.down(through * gate)).mean(dim=1)
        return mean


def _classifier(head: str, positions: int, width: int, hidden: int, classes: int) -> nn.Sequential:
    """From positions [B, P, D] to logits [B, N]."""
    if head == "gmlp":
        return nn.Sequential(GatedBlock(positions, width, hidden), nn.Linear(width, classes))
    if head == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(positions * width, hidden), nn.GELU(), nn.Linear(hidden, classes))
    return nn.Sequential(nn.Flatten(), nn.Linear(positions * width, classes))
