"""Several heads as one: the mean of their logits."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from mlclip.heads.base import Growth, Head, first_output
from mlclip.heads.classnet import ClassNet
from mlclip.heads.mld import MLDecoder
from mlclip.heads.neighbornet import NeighborNet
from mlclip.heads.powerset import PowersetHead
from mlclip.heads.sigmoid import SigmoidHead
from mlclip.heads.tip import TipAdapter
from mlclip.heads.values import FeatureShapes
from mlclip.heads.zeroshot import ZeroShot

MEMBERS: Mapping[str, type[Head]] = {
    head.name: head for head in (SigmoidHead, MLDecoder, PowersetHead, ZeroShot, NeighborNet, ClassNet, TipAdapter)
}


class Blend(Head):
    """The mean of several heads' logits, as one graph.

    Each member is trained on its own, with its defaults. A linear layer and a neighbour search err on different images,
    so their mean is better than either. A member that gives scores s takes part with log(s / (1 - s)), within ±13.8.

    Args:
        members: heads' names, as a list or separated by commas; their `config` by name, once they are built.
    """

    name = "blend"
    source = 'the sum rule of Kittler et al. 1998, "On Combining Classifiers", IEEE TPAMI 20(3); our choice of heads'

    def __init__(self, classes: int, members: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        heads = [MEMBERS[name](**config) for name, config in members.items()]
        self.config = {"classes": classes, "members": {head.name: head.config for head in heads}}
        self.inputs = tuple(sorted({name for head in heads for name in head.inputs}))
        self.uses_text_tower = any(head.uses_text_tower for head in heads)
        self.members = nn.ModuleList(heads)

    @classmethod
    def build(
        cls,
        classes: int,
        shapes: FeatureShapes,
        *,
        members: str | Sequence[str] = ("sigmoid", "neighbornet"),
        **options: Any,
    ) -> Self:
        """Build for an encoder's feature widths; a ValueError names a head that cannot be a member."""
        names = members.split(",") if isinstance(members, str) else list(members)
        unknown = [name for name in names if name not in MEMBERS]
        if unknown or len(set(names)) < 2:
            wrong = f"{unknown[0]!r} is none" if unknown else f"{', '.join(names)} is one"
            raise ValueError(f"members are two or more of {', '.join(MEMBERS)}: {wrong}")
        return cls(classes, {name: MEMBERS[name].build(classes, shapes).config for name in names}, **options)

    def parts(self) -> list[Head]:
        """As in `Head`."""
        return [head for head in self.members if isinstance(head, Head)]

    def extended(self, growth: Growth) -> Self:
        """Refused: its members' references lose their images' names, which growing needs."""
        raise ValueError("a blend takes no further classes: train a new head on all labels")

    def forward(self, embedding: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Embedding float32 [B, D], and tokens [B, T, W] where a member reads them, to logits float32 [B, N]."""
        given = {"embedding": embedding} | ({} if tokens is None else {"tokens": tokens})
        logits = []
        for head in self.parts():
            first = first_output(head, [given[name] for name in head.inputs])
            logits.append(first if head.outputs[0] == "logits" else torch.logit(first, eps=1e-6))
        return torch.stack(logits).mean(dim=0)
