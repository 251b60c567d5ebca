"""Heads of random weights, as they would come out of training, and estimates of their cost.

Speed does not depend on what the weights are, only on their number; label sets and references are drawn at random.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mlclip.encoders.clip import Encoder
from mlclip.encoders.features import Features, Rows
from mlclip.heads import HEADS, Examples, FeatureShapes, Head, LabelTexts
from mlclip_bench.scaling.cases import ENCODER, REFERENCES, SELF_ATTENTION, Case
from mlclip_bench.scaling.reference import paper_sizes, self_attention_decoder

LABELS_PER_ROW = 3
_FLOAT = 4
_ARENA = 4
"""How many times as much memory onnxruntime takes for results as the largest ones need: its arena grows by doubling."""


@dataclass(frozen=True)
class CostEstimate:
    """The estimated cost of a case, before anything runs."""

    parameters: int  # numbers that the graph holds, references and label sets included
    flops: int  # per image; a multiplication and an addition count as two
    activation_bytes: int  # per image, the two largest intermediate results together

    def bytes_at(self, batch: int) -> int:
        """Estimated memory of a process that runs a batch: weights and results."""
        return _FLOAT * self.parameters + _ARENA * batch * self.activation_bytes


def shapes_of(encoder: Encoder) -> FeatureShapes:
    """Widths of an encoder's features, without its text tower."""
    return FeatureShapes(encoder.embedding_width, encoder.token_count, encoder.token_width)


def estimate(case: Case, shapes: FeatureShapes, encoder: Encoder) -> CostEstimate:
    """Count parameters, FLOPs and the largest intermediate results; weights take memory only where values matter."""
    if case.kind == ENCODER:
        module: nn.Module = encoder
    elif case.kind in REFERENCES:  # how they search depends on what they hold
        module = build(case, shapes)
    else:
        with torch.device("meta"):
            module = _skeleton(case, shapes).to("meta")
    module.eval().requires_grad_(False)
    tensors = [*module.parameters(), *module.buffers()]
    inputs = [part.to(tensors[0].device) for part in example(case, module, shapes, 1, encoder)]
    sizes = _Sizes()
    with torch.no_grad(), sizes, FlopCounterMode(display=False) as flops:
        module(*inputs)
    return CostEstimate(
        sum(tensor.numel() for tensor in tensors), flops.get_total_flops(), sum(sorted(sizes.seen)[-2:])
    )


def build(case: Case, shapes: FeatureShapes) -> Head:
    """A head of random weights, ready to be exported; raises ValueError if the encoder lacks what it reads."""
    torch.manual_seed(0)
    head = _skeleton(case, shapes)
    generator = np.random.default_rng(0)
    train = _examples(head, case, shapes, generator)
    width = shapes.embedding_width
    texts = LabelTexts(_names(case.classes), lambda texts: F.normalize(torch.randn(len(texts), width), dim=-1))
    head.prepare(train, train, texts, seed=0)
    return head.eval()


def example(case: Case, module: nn.Module, shapes: FeatureShapes, batch: int, encoder: Encoder) -> list[Tensor]:
    """Random inputs of a case's graph: features as the encoder gives them, or pixels."""
    generator = torch.Generator().manual_seed(batch)
    if case.kind == ENCODER:
        size = encoder.spec.size
        return [torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, generator=generator)]
    assert isinstance(module, Head)
    widths = {
        "embedding": (shapes.embedding_width,),
        "tokens": (shapes.token_count, shapes.token_width),
        "text_embedding": (shapes.embedding_width,),
    }
    drawn = {name: torch.randn(batch, *widths[name], generator=generator) for name in module.inputs}
    return [drawn[name] if name == "tokens" else F.normalize(drawn[name], dim=-1) for name in module.inputs]


class _Sizes(TorchDispatchMode):
    """Records the bytes of every result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[int] = [0, 0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not func.is_view:
            self.seen.append(result.numel() * result.element_size())
        return result


def _skeleton(case: Case, shapes: FeatureShapes) -> Head:
    if case.kind == SELF_ATTENTION:
        return self_attention_decoder(case.classes, shapes)
    decoder = {"groups": case.groups, **paper_sizes(shapes)}
    options = {"powerset": {"sets": case.rows}, "mld": decoder}.get(case.kind, {})
    return HEADS[case.kind].build(case.classes, shapes, **options)


def _examples(head: Head, case: Case, shapes: FeatureShapes, generator: np.random.Generator) -> Examples:
    rows = max(case.rows, 1)
    widths = {"tokens": (shapes.token_count, shapes.token_width)}
    tables = []
    for name in head.inputs:
        drawn = generator.standard_normal((rows, *widths.get(name, (shapes.embedding_width,))), dtype=np.float32)
        tables.append(Rows(drawn / np.linalg.norm(drawn, axis=-1, keepdims=True), np.arange(rows)))
    return Examples(Features(tuple(tables)), _label_rows(rows, case.classes, generator), _names(rows))


def _label_rows(rows: int, classes: int, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Distinct rows of zeros and ones: [rows, classes], about `LABELS_PER_ROW` ones each."""
    targets = np.zeros((0, classes), dtype=np.uint8)
    while len(targets) < rows:
        more = (generator.random((rows, classes)) < min(LABELS_PER_ROW / classes, 0.5)).astype(np.uint8)
        targets = np.unique(np.concatenate([targets, more]), axis=0)
    return generator.permutation(targets)[:rows]


def _names(count: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(count))
