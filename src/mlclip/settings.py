"""Settings of a training, as heads state them, recipes choose them and a run's config.json records them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mlclip.losses import LOSSES
from mlclip.thresholds import Mode

Optimizer = Literal["adam", "sgd"]
Schedule = Literal["constant", "cosine"]
Keep = Literal["best", "last"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training.

    Attributes:
        epochs: maximum number of passes; 0 means no gradient steps, for heads that need none.
        patience: epochs without a better validation mAP after which to stop, where the best epoch is kept.
        weight_decay: the optimiser's L2 penalty.
        optimizer: `adam`, or `sgd` with `momentum`.
        schedule: `constant`, or `cosine`: the learning rate falls to 0 over `epochs`.
        keep: the weights of the epoch that is `best` on validation, or of the `last`, after all `epochs`.
        loss: a name in `LOSSES`, called with `loss_options`; heads with a loss of their own ignore both.
        alignment_weight: weight of the alignment loss, for heads with a decoder; 0 means none.
        seed: seeds initial weights, order and dropout.
    """

    lr: float = 1e-3
    epochs: int = 50
    patience: int = 10
    batch_size: int = 64
    weight_decay: float = 0.0
    optimizer: Optimizer = "adam"
    momentum: float = 0.0
    schedule: Schedule = "constant"
    keep: Keep = "best"
    loss: str = "bce"
    loss_options: dict[str, Any] = field(default_factory=dict)
    alignment_weight: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("loss", self.loss, tuple(LOSSES)),
            ("optimizer", self.optimizer, get_args(Optimizer)),
            ("schedule", self.schedule, get_args(Schedule)),
            ("keep", self.keep, get_args(Keep)),
        ):
            if value not in allowed:
                raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(allowed)}")
        if min(self.patience, self.batch_size) < 1 or self.epochs < 0 or self.lr <= 0:
            raise ValueError("patience and batch_size must be at least 1, epochs at least 0, and lr above 0")
        if min(self.weight_decay, self.momentum) < 0:
            raise ValueError("weight_decay and momentum must be at least 0")


UNTRAINED = TrainConfig(epochs=0)
"""For heads without gradient steps."""


@dataclass(frozen=True)
class ThresholdConfig:
    """How thresholds are chosen on the validation split; see `tune_thresholds`."""

    mode: Mode = "per_class"
    beta: float = 1.0
    shrink: float = 10.0


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a run except the data and the encoder.

    `head` is a name in `HEADS`, `options` are the head's own; without `training` the head's defaults apply.
    """

    head: str = "mld"
    options: Mapping[str, Any] = field(default_factory=dict)
    training: TrainConfig | None = None
    thresholds: ThresholdConfig = ThresholdConfig()
