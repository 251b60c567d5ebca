"""ML-Decoder: a transformer decoder whose K group queries read N classes from an image's tokens.

Ridnik et al. 2021, "ML-Decoder: Scalable and Versatile Classification Head", https://arxiv.org/abs/2111.12933;
on frozen CLIP with an alignment loss: Aktas and Garcia, "CLIP-based Few-Shot Multi-Label Classification
Methods", III.D. There is no self-attention between queries, so cost grows with K, not with N squared.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlclip.heads.base import Growth, Head
from mlclip.heads.decoder import (
    DecoderLayer,
    SegmentedReadout,
    TextQueries,
    make_queries,
    make_readout,
    readout_parts,
)
from mlclip.heads.growth import joined_rows
from mlclip.heads.values import Choice, Examples, FeatureShapes, LabelTexts, check_choice
from mlclip.settings import DECODER

MEMORIES = ("tokens", "pooled")
READOUTS = ("groups", "mean")
QUERIES = ("learned", "fixed", "text")
WIDEST = 256
SHARED = ("memory", "layers")
"""Modules that all queries share."""


class MLDecoder(Head):
    """Group queries cross-attend to the image; a readout gives N logits.

    Args:
        width: W, width of the memory's input: a token's, or the embedding's with `memory="pooled"`.
        groups: K, clamped to N.
        layers: decoder layers.
        attention_heads: heads of the cross attention; must divide `decoder_width`.
        decoder_width: E; None means W, but 256 for wider tokens.
        hidden: units of the feed-forward layers. Public ML-Decoder code has 2048, and a width of 768. On `mlclip-lite`
            and openclipart's 46 classes, 2048 units lost 1.8 points of validation mAP.
        dropout: inside the feed-forward layers; attention and residuals use 0.1.
        queries: `learned`, `fixed` (random, as public ML-Decoder code has them) or `text`: each class's text
            embedding, projected, is its query, and one shared readout scores it, so classes can be added.
        memory: `tokens` [B, T, W], followed by a ReLU, or `pooled`: the embedding alone, no ReLU.
        readout: `groups` (the group layer) or `mean` (average over groups, then one linear layer).
        text_width: D of the class texts, for `queries="text"`.
        segments: classes and groups of each part, where classes were added later; groups of one part do not read the
            other parts' classes. None for one part.
    """

    name = "mld"
    source = "Ridnik et al. 2021, https://arxiv.org/abs/2111.12933; 000, III.D"
    defaults = DECODER
    growth_rate = 3.0
    """Ten of openclipart's 46 classes, added later, reach 51.5 % validation mAP at the run's rate and 54.8 % at 3 times
    that rate (one choice of the ten)."""
    search = {
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
        hidden: int = 512,
        dropout: float = 0.5,
        queries: str = "learned",
        memory: str = "tokens",
        readout: str = "groups",
        text_width: int | None = None,
        segments: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        check_choice("memory", memory, MEMORIES)
        check_choice("readout", readout, READOUTS)
        check_choice("queries", queries, QUERIES)
        if min(classes, groups, layers) < 1:
            raise ValueError(f"classes, groups and layers must be at least 1, not {classes}, {groups}, {layers}")
        decoder_width = decoder_width or min(width, WIDEST)
        if decoder_width % attention_heads:
            raise ValueError(f"{attention_heads} attention heads do not divide the decoder width {decoder_width}")
        groups = classes if queries == "text" else min(groups, classes)
        self.config = {
            "classes": classes, "width": width, "groups": groups, "layers": layers,
            "attention_heads": attention_heads, "decoder_width": decoder_width, "hidden": hidden,
            "dropout": dropout, "queries": queries, "memory": memory, "readout": readout, "text_width": text_width,
            "segments": segments,
        }  # fmt: skip
        self.inputs = ("tokens",) if memory == "tokens" else ("embedding",)
        self.uses_text_tower, self.decoder_width = queries == "text", decoder_width
        self.memory = nn.Linear(width, decoder_width)
        self.queries = make_queries(queries, groups, decoder_width, text_width)
        self.layers = nn.ModuleList(
            DecoderLayer(decoder_width, attention_heads, hidden, dropout) for _ in range(layers)
        )
        kind = "shared" if queries == "text" else readout
        if segments is None:
            self.readout = make_readout(kind, classes, groups, decoder_width)
            return
        if (sum(part for part, _ in segments), sum(part for _, part in segments)) != (classes, groups):
            raise ValueError(f"segments {segments} do not sum up to {classes} classes and {groups} groups")
        parts = [make_readout(kind, classes, groups, decoder_width) for classes, groups in segments]
        self.readout = SegmentedReadout(parts, [groups for _, groups in segments])

    @classmethod
    def build(cls, classes: int, shapes: FeatureShapes, *, memory: str = "tokens", **options: Any) -> Self:
        """Build for an encoder's feature widths; text queries take the text tower's width too."""
        width = shapes.token_width if memory == "tokens" else shapes.embedding_width
        if options.get("queries") == "text":
            options["text_width"] = shapes.embedding_width
        return cls(classes, width, memory=memory, **options)

    def prepare(self, train: Examples, validation: Examples, texts: LabelTexts, seed: int) -> None:
        """With text queries, each class's query is its prompt's embedding."""
        if isinstance(self.queries, TextQueries):
            self.queries.text.copy_(texts.embeddings())

    def extended(self, growth: Growth) -> Self:
        """New queries and a readout of their own for the new classes; the decoder stays.

        Classes per group stay as before. Queries do not see each other, so old ones return what they did, and with
        `readout="mean"` each part averages its own groups. Text queries need no training: the new texts are projected
        and read out as the old ones are. If training is requested, it changes the new texts only.
        """
        added, config = len(growth.new_labels), self.config
        groups = -(-added * config["groups"] // config["classes"])
        new = self.rebuilt(classes=added, groups=groups, segments=None)
        shared = ("memory", "layers", "queries.project", "readout") if config["queries"] == "text" else SHARED
        for name in shared:
            new.get_submodule(name).load_state_dict(self.get_submodule(name).state_dict())
            new.get_submodule(name).requires_grad_(False)
        if isinstance(new.queries, TextQueries):
            return self._with_texts(new, new.queries, growth)
        growth.fit(new)
        old = config["segments"] or [[config["classes"], config["groups"]]]
        segments = [*old, [added, new.config["groups"]]]
        classes, groups = (sum(part) for part in zip(*segments, strict=True))
        whole = self.rebuilt(classes=classes, groups=groups, segments=segments)
        for name in SHARED:
            whole.get_submodule(name).load_state_dict(self.get_submodule(name).state_dict())
        whole.queries.load_state_dict(joined_rows(self.queries.state_dict(), new.queries.state_dict()))
        for number, part in enumerate([*readout_parts(self.readout), new.readout]):
            readout_parts(whole.readout)[number].load_state_dict(part.state_dict())
        return whole

    def _with_texts(self, new: Self, queries: TextQueries, growth: Growth) -> Self:
        """This head with the queries of another after its own, trained first if training is requested."""
        if growth.training_asked:
            text = nn.Parameter(queries.text)
            del queries.text
            queries.text = text
            growth.fit(new)
        else:
            new.prepare(growth.train, growth.validation, growth.new_texts, seed=0)
        classes = len(growth.texts.labels)
        whole = self.rebuilt(classes=classes, groups=classes)
        name = "queries.text"
        texts = torch.cat([self.state_dict()[name], new.state_dict()[name]])
        whole.load_state_dict(self.state_dict() | {name: texts})
        return whole

    def forward(self, features: Tensor) -> Tensor:
        """Tokens [B, T, W] (or embedding [B, D] with `memory="pooled"`) to logits float32 [B, N]."""
        return self.read(self.decode(features))

    def decode(self, *features: Tensor) -> Tensor:
        """The decoder's output before the readout: [B, K, E]."""
        (memory,), pooled = features, self.config["memory"] == "pooled"
        memory = self.memory(memory.unsqueeze(1)) if pooled else F.relu(self.memory(memory))
        target: Tensor = self.queries()[None]
        if self.training:  # dropout wants a mask of its own for each image; without it the first layer runs once
            target = target.expand(memory.shape[0], -1, -1)
        for layer in self.layers:
            target = layer(target, memory)
        return target

    def read(self, decoded: Tensor) -> Tensor:
        """Logits [B, N] from the decoder's output [B, K, E]."""
        logits: Tensor = self.readout(decoded)
        return logits
