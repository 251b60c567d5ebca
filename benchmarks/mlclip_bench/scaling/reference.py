"""The decoder that ML-Decoder was made from: its queries also attend to each other, which costs N squared.

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; as a multi-label head with one query a class: Liu et al. 2021,
"Query2Label", https://arxiv.org/abs/2107.10834. All but the self-attention is mlclip's own ML-Decoder at K = N, so
the two differ in nothing else.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mlclip.heads import FeatureShapes
from mlclip.heads.decoder import DecoderLayer
from mlclip.heads.mld import MLDecoder


def paper_sizes(shapes: FeatureShapes) -> dict[str, Any]:
    """Sizes of ML-Decoder as in its paper, https://arxiv.org/abs/2111.12933; the head's own defaults are smaller."""
    return {"decoder_width": min(shapes.token_width, 768), "hidden": 2048}


class SelfAttentionLayer(nn.Module):
    """Queries attend to each other, then to the image as in the layer that follows."""

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__()
        width = layer.query.in_features
        self.layer = layer
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, target: Tensor, memory: Tensor) -> Tensor:
        """Target [B or 1, K, E] reads itself and memory [B, T, E]: [B, K, E]."""
        heads = (part.unflatten(2, (self.layer.heads, -1)) for part in self.project(target).chunk(3, dim=-1))
        query, key, value = (part.transpose(1, 2) for part in heads)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.layer.read(self.layer.norm1(target + self.out(attended)), memory)


def self_attention_decoder(classes: int, shapes: FeatureShapes) -> MLDecoder:
    """Build the decoder with self-attention: N queries, otherwise ML-Decoder as in its paper."""
    head = MLDecoder.build(classes, shapes, groups=classes, **paper_sizes(shapes))
    head.layers = nn.ModuleList(SelfAttentionLayer(layer) for layer in head.layers if isinstance(layer, DecoderLayer))
    return head
