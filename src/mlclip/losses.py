"""Losses for multi-label targets: all are special cases of the asymmetric polynomial loss.

* `apl`: Huang et al. 2023, "Asymmetric Polynomial Loss for Multi-Label Classification", https://arxiv.org/abs/2304.05361
* `asl`: Ridnik et al. 2021, "Asymmetric Loss For Multi-Label Classification", https://arxiv.org/abs/2009.14119:
  `apl` whose leading coefficients are those of the Taylor series (alpha1 = 1, alpha2 = 1/2, beta1 = 1)
* `focal`: Lin et al. 2017, https://arxiv.org/abs/1708.02002: one focus on both sides, no shift, gradient through it
* `bce`: no focus and no shift

Everything is computed from log-sigmoids, so float32 is precise enough for |logit| up to 100 and no gradient is lost to
clamping, except as intended: negatives with p <= shift have none.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def apl(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 0.0,
    shift: float = 0.05,
    alpha1: float = 1.0,
    alpha2: float = 0.5,
    beta1: float = 1.0,
    detach_focus: bool = True,
    reduction: str = "mean",
) -> Tensor:
    """Asymmetric polynomial loss.

    With p = sigmoid(logit) and r = max(p - shift, 0), a class costs
    y (1-p)^gamma_pos [-log p + (alpha1 - 1)(1-p) + (alpha2 - 1/2)(1-p)^2]
    + (1-y) r^gamma_neg [-log(1-r) + (beta1 - 1) r].

    Logits are float [B, N], targets 0 or 1, [B, N]. Negatives with p up to `shift`, the paper's p_th in [0, 1), cost
    nothing. `detach_focus` treats the focusing weights as constants, as public ASL code does. `reduction` is `mean`
    over batch and classes, `sum`, or `none` ([B, N]).
    """
    not_p, log_p, log_not_p = torch.sigmoid(-logits), F.logsigmoid(logits), F.logsigmoid(-logits)
    residue, log_not_residue = torch.sigmoid(logits), log_not_p
    if shift > 0:
        residue = (residue - shift).clamp_min(0)
        log_not_residue = torch.logaddexp(log_not_p, log_not_p.new_tensor(math.log(shift))).clamp_max(0)
    positive = -log_p + (alpha1 - 1) * not_p + (alpha2 - 0.5) * not_p**2
    negative = -log_not_residue + (beta1 - 1) * residue
    positive = positive * _focus(not_p, gamma_pos, detach_focus)
    negative = negative * _focus(residue, gamma_neg, detach_focus)
    return _reduce(targets * positive + (1 - targets) * negative, reduction)


def asl(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 0.0,
    shift: float = 0.05,
    detach_focus: bool = True,
    reduction: str = "mean",
) -> Tensor:
    """Asymmetric loss: -[y (1-p)^gamma_pos log p + (1-y) r^gamma_neg log(1-r)]; arguments as in `apl`."""
    return apl(
        logits, targets, gamma_neg=gamma_neg, gamma_pos=gamma_pos, shift=shift, detach_focus=detach_focus,
        reduction=reduction,
    )  # fmt: skip


def focal(logits: Tensor, targets: Tensor, *, gamma: float = 2.0, reduction: str = "mean") -> Tensor:
    """Focal loss without class weights: -[y (1-p)^gamma log p + (1-y) p^gamma log(1-p)]."""
    return asl(logits, targets, gamma_neg=gamma, gamma_pos=gamma, shift=0.0, detach_focus=False, reduction=reduction)


def bce(logits: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    """Binary cross entropy on logits."""
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction=reduction)


LOSSES: dict[str, Callable[..., Tensor]] = {"bce": bce, "focal": focal, "asl": asl, "apl": apl}


def _focus(base: Tensor, gamma: float, detach: bool) -> Tensor:
    """Base ** gamma with a zero, not NaN, gradient where the base is zero."""
    if gamma == 0:
        return torch.ones_like(base)
    base = base.detach() if detach else base
    alive = base > 0
    return torch.where(alive, base.where(alive, torch.ones_like(base)) ** gamma, torch.zeros_like(base))


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be mean, sum or none, not {reduction!r}")
    return loss.mean() if reduction == "mean" else loss.sum()
