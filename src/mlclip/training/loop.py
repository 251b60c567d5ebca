"""Train a head on cached features: gradient steps, early stopping on validation mAP, repeatable by seed."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mlclip.encoders.features import Features
from mlclip.errors import TrainError
from mlclip.heads import Examples, Head
from mlclip.heads.alignment import AlignmentLoss
from mlclip.heads.base import batches, first_output, tensors, to_scores
from mlclip.losses import LOSSES
from mlclip.metrics import mean_average_precision
from mlclip.settings import LOSS_OPTIONS, TrainConfig


@dataclass(frozen=True)
class Epoch:
    """The result of an epoch: mean training loss, validation mAP in [0, 1], and whether it is the best so far."""

    number: int
    loss: float
    validation_map: float
    best: bool

    def line(self) -> str:
        """The epoch in one line; a star marks the best so far."""
        return f"epoch {self.number:3d}  loss {self.loss:.4f}  val mAP {self.validation_map:.3f}{' *' * self.best}"


def train_head(
    head: Head,
    train: Examples,
    validation: Examples,
    config: TrainConfig,
    *,
    text: Tensor | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> list[Epoch]:
    """Train a prepared head in place, leave it in evaluation mode with the weights to `keep`, and return the epochs.

    Heads initialised with the same seed give repeatable results. `text`, the label texts' embeddings, float32 [N, D],
    is needed with `alignment_weight` > 0. Raises TrainError without images or validation labels, or if training
    diverges.
    """
    if not len(train) or not validation.targets.any():
        raise TrainError("training needs images in `train`, and images with labels in `val`: check the splits")
    alignment = _alignment(head, text, config)
    modules = nn.ModuleList([head, *([alignment] if alignment else [])])
    parameters = [p for p in modules.parameters() if p.requires_grad]

    def loss(rows: npt.NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        targets = torch.from_numpy(train.targets[rows]).float()
        return _loss(head, alignment, tensors(train.features, rows), targets, config)

    history: list[Epoch] = []
    if config.epochs and parameters:
        history = run_epochs(
            head, parameters, len(train), loss, lambda: predict_outputs(head, validation.features), validation.targets,
            config, on_epoch,
        )  # fmt: skip
    head.eval()
    return history


def run_epochs(
    module: nn.Module,
    parameters: Sequence[nn.Parameter],
    images: int,
    loss: Callable[[npt.NDArray[np.int64], np.random.Generator], Tensor],
    outputs: Callable[[], npt.NDArray[np.float32]],
    targets: npt.NDArray[np.uint8],
    config: TrainConfig,
    on_epoch: Callable[[Epoch], None],
    on_step: Callable[[], None] = lambda: None,
) -> list[Epoch]:
    """Train until validation mAP stops rising, and leave the module with its best epoch's weights, or as `keep` says.

    Parameters are the module's and those of its loss. `loss` maps the rows of a step's images, out of R `images`, and a
    random generator to a scalar; `outputs` returns the current logits or scores [V, N] of the validation images, whose
    `targets`, [V, N], are 0 or 1, and 1 at least once.

    With `lbfgs` an epoch minimises the sum over the classes of the mean loss over all images, plus an L2 penalty on the
    weights. The penalty starts at `weight_decay` and falls by a factor of sqrt(10) per epoch: validation chooses it.
    """
    whole = config.optimizer == "lbfgs"
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    batch_size = images if whole else min(config.batch_size, max(1, images // config.least_steps))
    steps_per_epoch = -(-images // batch_size)
    optimizer, schedule = _optimizer_and_schedule(parameters, config, config.epochs * steps_per_epoch)
    order, history = np.random.default_rng(config.seed), list[Epoch]()
    best, best_state, since = -1.0, copy.deepcopy(module.state_dict()), 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for number in range(1, config.epochs + 1):
            module.train()
            penalty = config.weight_decay * 10 ** ((1 - number) / 2) / 2
            total, steps = 0.0, np.array_split(order.permutation(images), steps_per_epoch)
            if whole:
                optimizer.state.clear()  # what it learned about the curvature belongs to another penalty
            for rows in steps:

                def objective(rows: npt.NDArray[np.int64] = rows, penalty: float = penalty) -> float:
                    value = loss(rows, order)
                    if whole:
                        value = targets.shape[1] * value + penalty * sum(w.square().sum() for w in weights)
                    optimizer.zero_grad()
                    value.backward()
                    return value.item()

                total += float(optimizer.step(objective))
                schedule.step()
                on_step()
            mean, found = total / len(steps), outputs()
            if not (np.isfinite(mean) and np.isfinite(found).all()):
                raise TrainError(f"epoch {number} diverged (loss {mean:g}): lower --lr (now {config.lr:g})")
            value = mean_average_precision(targets, found)
            assert value is not None  # there is a label, as callers check
            history.append(Epoch(number, mean, value, value > best))
            on_epoch(history[-1])
            if value > best:
                best, best_state, since = value, copy.deepcopy(module.state_dict()), 0
            else:
                since += 1
                if since >= config.patience and config.keep == "best":
                    break
    if config.keep == "best":
        module.load_state_dict(best_state)
    return history


def _optimizer_and_schedule(
    parameters: Sequence[nn.Parameter], config: TrainConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The configured optimiser and its learning-rate schedule, to step together."""
    optimizer: torch.optim.Optimizer
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "lbfgs":
        optimizer = torch.optim.LBFGS(parameters, config.lr, max_iter=100, line_search_fn="strong_wolfe")
    elif config.optimizer == "adam":
        optimizer = torch.optim.Adam(parameters, **common)
    else:
        optimizer = torch.optim.SGD(parameters, **common, momentum=config.momentum)
    if config.schedule == "cosine":
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    if config.schedule == "onecycle":
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, steps, pct_start=0.2, cycle_momentum=False)
        return optimizer, cycle
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


@torch.inference_mode()
def predict_outputs(
    head: Head, features: Features, own: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.float32]:
    """A head's logits or scores float32 [R, N] of R images; `own` [R] are references to leave out, image by image."""
    head.eval()
    rows = []
    for batch in batches(features):
        given, left_out = tensors(features, batch), None if own is None else torch.from_numpy(own[batch])
        if left_out is None or (left_out < 0).all():
            rows.append(first_output(head, given).numpy())
        else:
            rows.append(head.scores_without(left_out, *given).numpy())
    return np.concatenate(rows)


@torch.inference_mode()
def predict_scores(head: Head, features: Features) -> npt.NDArray[np.float32]:
    """Scores float32 [R, N] in [0, 1] of R images."""
    return output_scores(head, predict_outputs(head, features))


def output_scores(head: Head, outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scores in [0, 1] of a head's first output, both float32 [R, N]."""
    return to_scores(head, torch.from_numpy(outputs)).numpy()


def _alignment(head: Head, text: Tensor | None, config: TrainConfig) -> AlignmentLoss | None:
    if not config.alignment_weight:
        return None
    if text is None or not head.decoder_width:
        raise TrainError("the alignment loss works for `mld` and needs label texts: set --alignment-weight 0 elsewhere")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return AlignmentLoss(text, head.decoder_width)


def _loss(
    head: Head,
    alignment: AlignmentLoss | None,
    features: tuple[Tensor, ...],
    targets: Tensor,
    config: TrainConfig,
) -> Tensor:
    own = head.loss(features, targets)
    if own is not None:
        return own
    classify, options = LOSSES[config.loss], config.loss_options
    if config.optimizer == "lbfgs" and "detach_focus" in LOSS_OPTIONS[config.loss]:
        options = {"detach_focus": False} | options  # its line search needs the gradient of the loss itself
    if alignment is None:
        return classify(first_output(head, features), targets, **options)
    decoded = head.decode(*features)
    aligned: Tensor = config.alignment_weight * alignment(decoded, targets)
    return classify(head.read(decoded), targets, **options) + aligned
