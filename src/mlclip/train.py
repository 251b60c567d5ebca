"""Train a head on cached features: Adam, early stopping on validation mAP, repeatable by seed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mlclip.alignment import AlignmentLoss
from mlclip.errors import TrainError
from mlclip.features import Rows
from mlclip.heads import Head, MLDecoder
from mlclip.losses import LOSSES
from mlclip.metrics import mean_average_precision

Targets = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training.

    Attributes:
        lr: Adam's learning rate.
        epochs: at most so many passes.
        patience: stop after so many epochs without a better validation mAP; the best epoch's weights are kept.
        batch_size: images a step.
        weight_decay: Adam's L2 penalty.
        loss: a name in `LOSSES`.
        loss_options: its keyword arguments.
        alignment_weight: weight of the alignment loss (`mld` only); 0 leaves it out.
        seed: seeds initial weights, order and dropout.
    """

    lr: float = 1e-3
    epochs: int = 50
    patience: int = 10
    batch_size: int = 64
    weight_decay: float = 0.0
    loss: str = "bce"
    loss_options: dict[str, Any] = field(default_factory=dict)
    alignment_weight: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"unknown loss {self.loss!r}: choose one of {', '.join(LOSSES)}")
        if min(self.epochs, self.patience, self.batch_size) < 1 or self.lr <= 0:
            raise ValueError("epochs, patience and batch_size must be at least 1, and lr above 0")


DEFAULTS: dict[str, TrainConfig] = {
    "sigmoid": TrainConfig(lr=1e-2, epochs=300, patience=30, batch_size=256, weight_decay=1e-5),
    "mld": TrainConfig(lr=3e-4, epochs=20, patience=5, alignment_weight=0.1),
}
"""Each head's settings where none are given: ours. The papers' (`sigmoid`: lr 1e-3, 50 epochs, no weight decay;
`mld`: lr 1e-4) reach less or take longer; the weight of the alignment loss they leave open."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: mean training loss, validation mAP in [0, 1], and whether it is the best so far."""

    number: int
    loss: float
    validation_map: float
    best: bool


def train_head(
    head: Head,
    train: tuple[Rows, Targets],
    validation: tuple[Rows, Targets],
    config: TrainConfig,
    *,
    text: Tensor | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> list[Epoch]:
    """Train a head in place and leave it in evaluation mode with its best epoch's weights.

    Args:
        head: a module of `HEADS`; initialise it under the same seed for repeatable results.
        train: features [R, ...] and targets uint8 [R, N].
        validation: the same for the images that decide when to stop.
        config: settings.
        text: label text embeddings float32 [N, D]; needed with `alignment_weight` > 0.
        on_epoch: called after each epoch.

    Returns:
        The epochs, in order.

    Raises:
        TrainError: no images, no validation label to measure, or a loss that is no number.
    """
    if not len(train[0]) or not validation[1].any():
        raise TrainError("training needs images in `train`, and images with labels in `val`: check the splits")
    alignment = _alignment(head, text, config)
    modules = nn.ModuleList([head, *([alignment] if alignment else [])])
    optimizer = torch.optim.Adam(
        [p for p in modules.parameters() if p.requires_grad], lr=config.lr, weight_decay=config.weight_decay
    )
    order = np.random.default_rng(config.seed)
    history: list[Epoch] = []
    best, best_state = -1.0, copy.deepcopy(head.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for number in range(1, config.epochs + 1):
            loss = _epoch(head, alignment, train, optimizer, config, order)
            logits = predict_logits(head, validation[0])
            if not (np.isfinite(loss) and np.isfinite(logits).all()):
                raise TrainError(f"epoch {number} ran away (loss {loss:g}): lower --lr (now {config.lr:g})")
            value = mean_average_precision(validation[1], logits)
            assert value is not None  # validation has a label, as checked above
            history.append(Epoch(number, loss, value, value > best))
            on_epoch(history[-1])
            if value > best:
                best, best_state, since = value, copy.deepcopy(head.state_dict()), 0
            else:
                since += 1
                if since >= config.patience:
                    break
    head.load_state_dict(best_state)
    head.eval()
    return history


@torch.inference_mode()
def predict_logits(head: Head, features: Rows, batch_size: int = 256) -> npt.NDArray[np.float32]:
    """Logits float32 [R, N] of R images."""
    head.eval()
    batches = [slice(start, start + batch_size) for start in range(0, len(features), batch_size)]
    return np.concatenate([head(torch.from_numpy(features[batch])).numpy() for batch in batches])


def predict_scores(head: Head, features: Rows) -> npt.NDArray[np.float32]:
    """Scores float32 [R, N] in [0, 1] of R images: the sigmoid of the logits."""
    scores: npt.NDArray[np.float32] = torch.from_numpy(predict_logits(head, features)).sigmoid().numpy()
    return scores


def _alignment(head: Head, text: Tensor | None, config: TrainConfig) -> AlignmentLoss | None:
    if not config.alignment_weight:
        return None
    if text is None or not isinstance(head, MLDecoder):
        raise TrainError("the alignment loss works for `mld` and needs label texts: set --alignment-weight 0 elsewhere")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return AlignmentLoss(text, head.config["decoder_width"])


def _epoch(
    head: Head,
    alignment: AlignmentLoss | None,
    train: tuple[Rows, Targets],
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    order: np.random.Generator,
) -> float:
    """One pass over the images; the mean loss a step."""
    head.train()
    classify = LOSSES[config.loss]
    total, steps = 0.0, np.array_split(order.permutation(len(train[0])), -(-len(train[0]) // config.batch_size))
    for step in steps:
        features = torch.from_numpy(train[0][step])
        targets = torch.from_numpy(train[1][step]).float()
        if alignment is None or not isinstance(head, MLDecoder):
            loss = classify(head(features), targets, **config.loss_options)
        else:
            decoded = head.decode(features)
            loss = classify(head.readout(decoded), targets, **config.loss_options)
            loss = loss + config.alignment_weight * alignment(decoded, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(steps)
