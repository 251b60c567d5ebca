"""ML-Decoder: a transformer decoder whose K group queries read N classes off an image's tokens.

Ridnik et al. 2021, "ML-Decoder: Scalable and Versatile Classification Head", https://arxiv.org/abs/2111.12933;
on frozen CLIP with an alignment loss: Aktas and Garcia, "CLIP-based Few-Shot Multi-Label Classification
Methods", III.D. There is no self-attention between queries, so cost grows with K, not with N squared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlclip.alignment import PROMPT
from mlclip.heads.base import Choice, Examples, FeatureShapes, Head, LabelTexts
from mlclip.settings import TrainConfig

MEMORIES = ("tokens", "pooled")
READOUTS = ("groups", "mean")
QUERIES = ("learned", "fixed", "text")


class MLDecoder(Head):
    """Group queries cross-attend to the image; a readout gives N logits.

    Args:
        classes: N.
        width: W, width of the memory's input: a token's, or the embedding's with `memory="pooled"`.
        groups: K, clamped to N.
        layers: decoder layers.
        attention_heads: heads of the cross attention; must divide `decoder_width`.
        decoder_width: E; None means W.
        hidden: units of the feed-forward layers.
        dropout: inside the feed-forward layers; attention and residuals use 0.1.
        queries: `learned`, `fixed` (random, as public ML-Decoder code has them) or `text`: each class's text
            embedding, projected, is its query, and one shared readout scores it, so classes can be added.
        memory: `tokens` [B, T, W] behind a ReLU, or `pooled`: the embedding alone, no ReLU.
        readout: `groups` (the group layer) or `mean` (average over groups, then one linear layer).
        text_width: D of the class texts, for `queries="text"`.
    """

    name: ClassVar[str] = "mld"
    defaults: ClassVar[TrainConfig] = TrainConfig(lr=3e-4, epochs=20, patience=5, alignment_weight=0.1)
    search: ClassVar[Mapping[str, Choice]] = {
        "attention_heads": Choice((2, 4, 8)),
        "dropout": Choice((0.1, 0.3, 0.5)),
        "groups": Choice((8, 16, 46)),
        "layers": Choice((1, 2, 3)),
    }

    def __init__(
        self,
        classes: int,
        width: int,
        *,
        groups: int = 8,
        layers: int = 2,
        attention_heads: int = 4,
        decoder_width: int | None = None,
        hidden: int = 2048,
        dropout: float = 0.5,
        queries: str = "learned",
        memory: str = "tokens",
        readout: str = "groups",
        text_width: int | None = None,
    ) -> None:
        super().__init__()
        _check(("memory", memory, MEMORIES), ("readout", readout, READOUTS), ("queries", queries, QUERIES))
        if min(classes, groups, layers) < 1:
            raise ValueError(f"classes, groups and layers must be at least 1, not {classes}, {groups}, {layers}")
        decoder_width = decoder_width or width
        if decoder_width % attention_heads:
            raise ValueError(f"{attention_heads} attention heads do not divide the decoder width {decoder_width}")
        groups = classes if queries == "text" else min(groups, classes)
        self.config = {
            "classes": classes, "width": width, "groups": groups, "layers": layers,
            "attention_heads": attention_heads, "decoder_width": decoder_width, "hidden": hidden,
            "dropout": dropout, "queries": queries, "memory": memory, "readout": readout, "text_width": text_width,
        }  # fmt: skip
        self.inputs = ("tokens",) if memory == "tokens" else ("embedding",)
        self.memory = nn.Linear(width, decoder_width)
        self.queries = _queries(queries, groups, decoder_width, text_width)
        self.layers = nn.ModuleList(
            DecoderLayer(decoder_width, attention_heads, hidden, dropout) for _ in range(layers)
        )
        self.readout = _readout("shared" if queries == "text" else readout, classes, groups, decoder_width)

    @classmethod
    def build(cls, classes: int, shapes: FeatureShapes, *, memory: str = "tokens", **options: Any) -> Self:
        """Build for an encoder's feature widths.

        Raises:
            ValueError: `memory="tokens"` on an encoder without tokens.
        """
        if memory == "tokens" and not shapes.token_count:
            raise ValueError("this encoder gives no tokens (a ResNet-style tower): use --memory pooled")
        width = shapes.token_width if memory == "tokens" else shapes.embedding_width
        if options.get("queries") == "text":
            options["text_width"] = shapes.embedding_width
        return cls(classes, width, memory=memory, **options)

    def prepare(self, train: Examples, validation: Examples, texts: LabelTexts, seed: int) -> None:
        """With text queries, each class's query is its prompt's embedding."""
        if isinstance(self.queries, TextQueries):
            self.queries.text.copy_(texts.encode([PROMPT.format(label) for label in texts.labels]))

    def forward(self, features: Tensor) -> Tensor:
        """Tokens [B, T, W] (or embedding [B, D] with `memory="pooled"`) to logits float32 [B, N]."""
        logits: Tensor = self.readout(self.decode(features))
        return logits

    def decode(self, features: Tensor) -> Tensor:
        """The decoder's output before the readout: [B, K, E]."""
        pooled = self.config["memory"] == "pooled"
        memory = self.memory(features.unsqueeze(1)) if pooled else F.relu(self.memory(features))
        target: Tensor = self.queries()[None]
        if self.training:  # dropout wants a mask of its own for each image; without it the first layer runs once
            target = target.expand(memory.shape[0], -1, -1)
        for layer in self.layers:
            target = layer(target, memory)
        return target


class DecoderLayer(nn.Module):
    """Post-norm decoder layer without self-attention; the residual of the removed self-attention stays."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps=1e-5) for _ in range(3))
        self.inner_dropout, self.residual_dropout = nn.Dropout(dropout), nn.Dropout(0.1)
        for weight in (self.query.weight, *self.key_value.weight.chunk(2), self.out.weight):
            nn.init.xavier_uniform_(weight)
        for linear in (self.query, self.key_value, self.out):
            nn.init.zeros_(linear.bias)

    def forward(self, target: Tensor, memory: Tensor) -> Tensor:
        """Target [B or 1, K, E] reads memory [B, T, E]: [B, K, E]."""
        target = self.norm1(target + self.residual_dropout(target))
        target = self.norm2(target + self.residual_dropout(self._attend(target, memory)))
        hidden = self.inner_dropout(F.relu(self.up(target)))
        output: Tensor = self.norm3(target + self.residual_dropout(self.down(hidden)))
        return output

    def _attend(self, target: Tensor, memory: Tensor) -> Tensor:
        query = self._split(self.query(target))
        dropout = 0.1 if self.training else 0.0
        if _few_queries(target.shape[1], self.heads, memory):
            attended = self._attend_from_queries(query, memory, dropout)
        else:
            key, value = (self._split(part) for part in self.key_value(memory).chunk(2, dim=-1))
            query = query.expand(memory.shape[0], -1, -1, -1)
            attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        output: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return output

    def _attend_from_queries(self, query: Tensor, memory: Tensor, dropout: float) -> Tensor:
        """The same attention with the projections moved to the side of the queries: [B, heads, K, E / heads].

        (W q) . m = q . (W^T m), so keys and values of all T tokens need not be made. The keys' bias adds the same
        to all logits of a query, which softmax does not see.
        """
        key, value = (weight.unflatten(0, (self.heads, -1)) for weight in self.key_value.weight.chunk(2))
        bias = self.key_value.bias.chunk(2)[1].view(self.heads, 1, -1)
        absorbed = _by_head(query, key * query.shape[-1] ** -0.5).flatten(1, 2)
        shares = F.dropout((absorbed @ memory.transpose(1, 2)).softmax(dim=-1), dropout)
        attended = _by_head((shares @ memory).unflatten(1, (self.heads, -1)), value.transpose(1, 2))
        return attended + shares.sum(dim=-1).unflatten(1, (self.heads, -1)).unsqueeze(-1) * bias

    def _split(self, x: Tensor) -> Tensor:
        split: Tensor = x.reshape(*x.shape[:-1], self.heads, -1)
        return split.transpose(1, 2)


def _by_head(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply [B, heads, K, E] by each head's own weight [heads, E, F]: one product a head, all images in it."""
    product = x.transpose(0, 1).flatten(1, 2) @ weight
    return product.unflatten(1, (-1, x.shape[2])).transpose(0, 1)


def _few_queries(queries: int, heads: int, memory: Tensor) -> bool:
    """Whether projecting K queries costs less than projecting T tokens, in multiplications a layer."""
    tokens, width = memory.shape[1:]
    return queries * (width + heads * tokens) < tokens * (width + queries)


class GroupLayer(nn.Module):
    """Group k's output gives the logits of its own classes: [B, K, E] to [B, N] in one batched product.

    Class n is slot n % f of group n // f with f = ceil(N / K). Where that layout would leave groups without a
    class (N = 46, K = 45 has 22 of them), classes are spread evenly instead: the first N % K groups get one more.
    """

    index: Tensor | None

    def __init__(self, classes: int, groups: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        factor = -(-classes // groups)
        self.weight = nn.Parameter(torch.empty(groups, width, factor))
        self.bias = nn.Parameter(torch.zeros(classes))
        nn.init.xavier_normal_(self.weight)
        dead_groups = -(-classes // factor) < groups
        index = _spread(classes, groups, factor) if dead_groups else None
        self.register_buffer("index", index, persistent=False)

    def forward(self, decoded: Tensor) -> Tensor:
        """Decoder output [B, K, E] to logits [B, N]."""
        logits = torch.matmul(decoded.transpose(0, 1), self.weight).transpose(0, 1).flatten(1)
        logits = logits[:, : self.classes] if self.index is None else logits.index_select(1, self.index)
        return logits + self.bias


class MeanReadout(nn.Linear):
    """Average over the groups, then one linear layer: [B, K, E] to [B, N]."""

    def forward(self, decoded: Tensor) -> Tensor:
        """Decoder output [B, K, E] to logits [B, N]."""
        logits: Tensor = super().forward(decoded.mean(dim=1))
        return logits


class SharedReadout(nn.Linear):
    """The same linear unit for every query: [B, N, E] to [B, N]."""

    def forward(self, decoded: Tensor) -> Tensor:
        """Decoder output [B, N, E] to logits [B, N]."""
        logits: Tensor = super().forward(decoded).squeeze(-1)
        return logits


class LearnedQueries(nn.Module):
    """K query vectors [K, E], trained or kept as drawn."""

    def __init__(self, groups: int, width: int, learned: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(groups, width), requires_grad=learned)

    def forward(self) -> Tensor:
        """Queries [K, E]."""
        return self.weight


class TextQueries(nn.Module):
    """One query a class: its text embedding [N, D], projected to E. Set `text` to add or replace classes."""

    text: Tensor

    def __init__(self, classes: int, text_width: int, width: int) -> None:
        super().__init__()
        self.register_buffer("text", torch.zeros(classes, text_width))
        self.project = nn.Linear(text_width, width)

    def forward(self) -> Tensor:
        """Queries [N, E]."""
        queries: Tensor = self.project(self.text)
        return queries


def _queries(kind: str, groups: int, width: int, text_width: int | None) -> nn.Module:
    if kind != "text":
        return LearnedQueries(groups, width, learned=kind == "learned")
    if text_width is None:
        raise ValueError("text queries need text_width, the width of the class texts' embeddings")
    return TextQueries(groups, text_width, width)


def _readout(kind: str, classes: int, groups: int, width: int) -> nn.Module:
    if kind == "groups":
        return GroupLayer(classes, groups, width)
    return MeanReadout(width, classes) if kind == "mean" else SharedReadout(width, 1)


def _spread(classes: int, groups: int, factor: int) -> Tensor:
    """Where class n lies in the flattened [K * f] logits when classes are spread evenly: int64 [N]."""
    base, more = divmod(classes, groups)
    sizes = [base + (group < more) for group in range(groups)]
    return torch.tensor([group * factor + slot for group, size in enumerate(sizes) for slot in range(size)])


def _check(*options: tuple[str, str, tuple[str, ...]]) -> None:
    for name, value, allowed in options:
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
