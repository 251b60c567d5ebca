"""The parts of ML-Decoder: layers without self-attention, queries, and readouts from groups to classes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DecoderLayer(nn.Module):
    """Post-norm decoder layer without self-attention, but with its residual connection."""

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
        return self.read(self.norm1(target + self.residual_dropout(target)), memory)

    def read(self, target: Tensor, memory: Tensor) -> Tensor:
        """The part after the place of the self-attention; same shapes."""
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
        """The same attention with the projections applied to the queries: [B, heads, K, E / heads].

        (W q) . m = q . (W^T m), so keys and values of all T tokens need not be computed. The keys' bias adds the same
        value to all logits of a query, which softmax ignores.
        """
        key, value = (weight.unflatten(0, (self.heads, -1)) for weight in self.key_value.weight.chunk(2))
        bias = self.key_value.bias.chunk(2)[1].view(self.heads, 1, -1)
        absorbed = _by_head(query, key * query.shape[-1] ** -0.5).flatten(1, 2)
        shares = F.dropout((absorbed @ memory.transpose(1, 2)).softmax(dim=-1), dropout)
        attended = _by_head((shares @ memory).unflatten(1, (self.heads, -1)), value.transpose(1, 2))
        output: Tensor = attended + shares.sum(dim=-1).unflatten(1, (self.heads, -1)).unsqueeze(-1) * bias
        return output

    def _split(self, x: Tensor) -> Tensor:
        split: Tensor = x.reshape(*x.shape[:-1], self.heads, -1)
        return split.transpose(1, 2)


def _by_head(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply [B, heads, K, E] by each head's own weight [heads, E, F]: one product per head for all images."""
    product = x.transpose(0, 1).flatten(1, 2) @ weight
    output: Tensor = product.unflatten(1, (-1, x.shape[2])).transpose(0, 1)
    return output


def _few_queries(queries: int, heads: int, memory: Tensor) -> bool:
    """Whether projecting K queries costs less than projecting T tokens, in multiplications per layer."""
    tokens, width = memory.shape[1:]
    return queries * (width + heads * tokens) < tokens * (width + queries)


class GroupLayer(nn.Module):
    """Group k's output gives the logits of its own classes: [B, K, E] to [B, N] in one batched product.

    Class n is slot n % f of group n // f with f = ceil(N / K). Where that layout would leave groups without a
    class (22 of them for N = 46, K = 45), classes are spread evenly instead: the first N % K groups get one more.
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
        return super().forward(decoded.mean(dim=1))


class SharedReadout(nn.Linear):
    """The same linear unit for every query: [B, N, E] to [B, N]."""

    def forward(self, decoded: Tensor) -> Tensor:
        """Decoder output [B, N, E] to logits [B, N]."""
        return super().forward(decoded).squeeze(-1)


class SegmentedReadout(nn.Module):
    """Each part's readout reads its own groups: [B, K, E] to [B, N]."""

    def __init__(self, parts: Sequence[nn.Module], groups: Sequence[int]) -> None:
        super().__init__()
        self.parts, self.groups = nn.ModuleList(parts), list(groups)

    def forward(self, decoded: Tensor) -> Tensor:
        """Decoder output [B, K, E] to logits [B, N]."""
        segments = decoded.split(self.groups, dim=1)
        return torch.cat([part(segment) for part, segment in zip(self.parts, segments, strict=True)], dim=1)


class LearnedQueries(nn.Module):
    """K query vectors [K, E], trained or kept at their random initial values."""

    def __init__(self, groups: int, width: int, learned: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(groups, width), requires_grad=learned)

    def forward(self) -> Tensor:
        """Queries [K, E]."""
        return self.weight


class TextQueries(nn.Module):
    """One query per class: its text embedding [N, D], projected to E. Set `text` to add or replace classes."""

    text: Tensor

    def __init__(self, classes: int, text_width: int, width: int) -> None:
        super().__init__()
        self.register_buffer("text", torch.zeros(classes, text_width))
        self.project = nn.Linear(text_width, width)

    def forward(self) -> Tensor:
        """Queries [N, E]."""
        queries: Tensor = self.project(self.text)
        return queries


def make_queries(kind: str, groups: int, width: int, text_width: int | None) -> nn.Module:
    """Queries of a kind: `learned`, `fixed`, or `text`, which needs the width of the class texts' embeddings."""
    if kind != "text":
        return LearnedQueries(groups, width, learned=kind == "learned")
    if text_width is None:
        raise ValueError("text queries need text_width, the width of the class texts' embeddings")
    return TextQueries(groups, text_width, width)


def make_readout(kind: str, classes: int, groups: int, width: int) -> nn.Module:
    """A readout of a kind: `groups`, `mean`, or `shared`: one linear unit for all queries."""
    if kind == "groups":
        return GroupLayer(classes, groups, width)
    return MeanReadout(width, classes) if kind == "mean" else SharedReadout(width, 1)


def readout_parts(readout: nn.Module) -> list[nn.Module]:
    """The parts of a readout: itself, unless classes were added to it."""
    return list(readout.parts) if isinstance(readout, SegmentedReadout) else [readout]


def _spread(classes: int, groups: int, factor: int) -> Tensor:
    """Where class n lies in the flattened [K * f] logits when classes are spread evenly: int64 [N]."""
    base, more = divmod(classes, groups)
    sizes = [base + (group < more) for group in range(groups)]
    return torch.tensor([group * factor + slot for group, size in enumerate(sizes) for slot in range(size)])
