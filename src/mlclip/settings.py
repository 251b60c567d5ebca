"""Settings of a training, as heads state them, recipes choose them and a run's config.json records them."""

import json
import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, get_args

from mlclip.errors import TrainError

Optimizer = Literal["adam", "sgd", "lbfgs"]
Schedule = Literal["constant", "cosine", "onecycle"]
Keep = Literal["best", "last"]
Mode = Literal["per_class", "global"]
_FOCUS = ("gamma_neg", "gamma_pos", "shift")
LOSS_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "bce": (),
    "focal": ("gamma",),
    "asl": (*_FOCUS, "detach_focus"),
    "apl": (*_FOCUS, "alpha1", "alpha2", "beta1", "detach_focus"),
}
"""The losses of `mlclip.losses`, which takes torch to import, and their parameters."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training.

    Attributes:
        epochs: maximum number of passes; 0 means no gradient steps, for heads that need none.
        patience: epochs without a better validation mAP after which to stop, where the best epoch is kept.
        least_steps: fewest steps per epoch: batches are smaller where images are few.
        weight_decay: the optimiser's L2 penalty.
        optimizer: `adam`, `sgd` with `momentum`, or `lbfgs`, for which an epoch is one penalty, see `run_epochs`.
        schedule: of the learning rate over all steps: `constant`; `cosine` falls to 0; `onecycle` rises to `lr` for a
            fifth of the steps, then falls to 0, as public ML-Decoder code does (https://arxiv.org/abs/1708.07120).
        keep: the weights of the epoch that is `best` on validation, or of the `last`, after all `epochs`.
        loss: a name in `LOSS_OPTIONS`, called with `loss_options`; heads with a loss of their own ignore both.
        alignment_weight: weight of the alignment loss, for heads with a decoder; 0 means none.
        seed: seeds initial weights, order and dropout.
    """

    lr: float = 1e-3
    epochs: int = 50
    patience: int = 10
    batch_size: int = 64
    least_steps: int = 1
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
        """Refuse values that cannot work; raises TrainError."""
        check_choice("loss", self.loss, LOSS_OPTIONS)
        check_choice("optimizer", self.optimizer, get_args(Optimizer))
        check_choice("schedule", self.schedule, get_args(Schedule))
        check_choice("keep", self.keep, get_args(Keep))
        check_seed(self.seed)
        for name, least in (("epochs", 0), ("patience", 1), ("batch_size", 1), ("least_steps", 1)):
            check_number(name, getattr(self, name), least, whole=True)
        for name in ("weight_decay", "momentum", "alignment_weight"):
            check_number(name, getattr(self, name), 0)
        check_number("lr", self.lr, 0, above=True)
        for name, value in self.loss_options.items():
            if name not in LOSS_OPTIONS[self.loss]:
                its = ", ".join(LOSS_OPTIONS[self.loss]) or "none"
                raise TrainError(f"the loss {self.loss} has no parameter {name!r}; its parameters: {its}")
            check_number(f"{name} of the loss", value)


def check_seed(seed: int) -> None:
    """Refuse what numpy cannot seed; raises TrainError."""
    check_number("seed", seed, 0, whole=True)
    if seed >= 2**32:
        raise TrainError(f"seed is a whole number below {2**32:,}, not {seed}")


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Refuse what is none of the allowed values; raises TrainError."""
    if value not in tuple(allowed):
        raise TrainError(f"unknown {name} {value!r}: choose one of {', '.join(allowed)}")


def check_number(
    name: str, value: float, least: float = -math.inf, *, above: bool = False, whole: bool = False
) -> None:
    """Refuse what is no finite number, not at least (or `above`) `least`, or not `whole`; raises TrainError."""
    right = isinstance(value, Integral if whole else Real) and abs(value) <= sys.float_info.max
    if not right or value < least or (above and value == least):
        bound = f" {'above' if above else 'of at least'} {least}" if math.isfinite(least) else ""
        raise TrainError(f"{name} is a {'whole' if whole else 'finite'} number{bound}, not {value!r:.40}")


UNTRAINED = TrainConfig(epochs=0)
"""For heads without gradient steps."""
DECODER = TrainConfig(lr=3e-3, epochs=10, batch_size=32, least_steps=16, schedule="onecycle", alignment_weight=0.1)
"""For `mld`."""


@dataclass(frozen=True)
class ThresholdConfig:
    """How thresholds are chosen on the validation split; see `tune_thresholds`."""

    mode: Mode = "per_class"
    beta: float = 1.0
    shrink: float = 10.0

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises TrainError."""
        check_choice("thresholds", self.mode, get_args(Mode))
        check_number("beta", self.beta, 0, above=True)
        check_number("shrink", self.shrink, 0)


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a run except the data and the encoder.

    `head` is a name in `HEADS`, `options` are the head's own; without `training` the head's defaults apply.
    """

    head: str = "mld"
    options: Mapping[str, Any] = field(default_factory=dict)
    training: TrainConfig | None = None
    thresholds: ThresholdConfig = ThresholdConfig()

    def __post_init__(self) -> None:
        """Refuse settings of another type; raises TrainError."""
        for name, kind in (("options", Mapping), ("training", TrainConfig), ("thresholds", ThresholdConfig)):
            value = getattr(self, name)
            if not isinstance(value, kind) and (name, value) != ("training", None):
                raise TrainError(f"{name} is a {kind.__name__}, not a {type(value).__name__}")


def json_or_text(text: str) -> Any:
    """The value of a setting as people type it: JSON if it is valid, otherwise the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
