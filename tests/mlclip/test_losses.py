import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mlclip.losses import LOSSES, apl, asl, bce, focal
from mlclip.settings import LOSS_OPTIONS

LOGITS = np.random.default_rng(0).normal(scale=4, size=(6, 5))
TARGETS = (np.random.default_rng(1).random((6, 5)) < 0.4).astype(float)

SETTINGS = [
    {},
    {"alpha1": 0.0, "alpha2": 3.0},  # the paper's for COCO
    {"alpha1": 1.3},  # NUS-WIDE
    {"gamma_neg": 3.0, "alpha1": 2.5},  # text
    {"gamma_pos": 1.0, "gamma_neg": 2.0, "beta1": 0.4, "shift": 0.2},
    {"gamma_pos": 0.5, "gamma_neg": 0.5, "shift": 0.0},
]


def formula(logits, targets, gamma_neg=4.0, gamma_pos=0.0, shift=0.05, alpha1=1.0, alpha2=0.5, beta1=1.0):
    """The paper's formula, term by term, in float64; the focusing weights apart."""
    p = 1 / (1 + np.exp(-logits))
    residue = np.maximum(p - shift, 0)
    positive = -np.log(p) + (alpha1 - 1) * (1 - p) + (alpha2 - 0.5) * (1 - p) ** 2
    negative = -np.log(1 - residue) + (beta1 - 1) * residue
    focus = targets * (1 - p) ** gamma_pos + (1 - targets) * np.where(residue > 0, residue, 0.0) ** gamma_neg
    return targets * positive + (1 - targets) * negative, focus


def slope(setting, detached):
    """Central differences of the formula, with the focus held fixed where it is detached."""
    step = 1e-6
    losses = []
    for sign in (1, -1):
        terms, focus = formula(LOGITS + sign * step, TARGETS, **setting)
        losses.append(terms * (formula(LOGITS, TARGETS, **setting)[1] if detached else focus))
    return (losses[0] - losses[1]) / (2 * step)


@pytest.mark.parametrize("detached", [True, False])
@pytest.mark.parametrize("setting", SETTINGS)
def test_apl_value_and_gradient_equal_the_formula(setting, detached):
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss = apl(logits, torch.tensor(TARGETS), detach_focus=detached, reduction="none", **setting)
    terms, focus = formula(LOGITS, TARGETS, **setting)
    np.testing.assert_allclose(loss.detach().numpy(), terms * focus, rtol=1e-10, atol=1e-12)
    loss.sum().backward()
    np.testing.assert_allclose(logits.grad.numpy(), slope(setting, detached), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["bce", "focal"])
def test_bce_and_focal_pass_gradcheck(name):
    logits = torch.tensor(LOGITS, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, torch.tensor(TARGETS)), logits)


def test_asl_is_apl_with_the_series_own_coefficients():
    logits, targets = torch.tensor(LOGITS), torch.tensor(TARGETS)
    torch.testing.assert_close(asl(logits, targets), apl(logits, targets, alpha1=1, alpha2=0.5, beta1=1))
    p, residue = logits.sigmoid(), (logits.sigmoid() - 0.05).clamp(min=0)
    written_out = -(targets * p.log() + (1 - targets) * (1 - residue).log() * residue**4)
    torch.testing.assert_close(asl(logits, targets, reduction="none"), written_out)


@pytest.mark.parametrize("loss", [asl, apl])
def test_without_focus_and_shift_both_are_bce(loss):
    logits, targets = torch.tensor(LOGITS), torch.tensor(TARGETS)
    plain = loss(logits, targets, gamma_neg=0, gamma_pos=0, shift=0)
    torch.testing.assert_close(plain, F.binary_cross_entropy_with_logits(logits, targets))
    torch.testing.assert_close(plain, bce(logits, targets))


def test_focal_equals_its_formula():
    logits, targets = torch.tensor(LOGITS), torch.tensor(TARGETS)
    p = logits.sigmoid()
    expected = -(targets * (1 - p) ** 2 * p.log() + (1 - targets) * p**2 * (1 - p).log())
    torch.testing.assert_close(focal(logits, targets), expected.mean())


@pytest.mark.parametrize("name", LOSSES)
def test_float32_gradients_equal_float64_up_to_a_logit_of_100(name):
    gradients = []
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([-100.0, -50, -20, -5, 0, 5, 20, 50, 100], dtype=dtype).repeat(2, 1).requires_grad_()
        targets = torch.stack([torch.ones(9), torch.zeros(9)]).to(dtype)
        LOSSES[name](logits, targets, reduction="sum").backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-4, atol=1e-7)
    assert (gradients[0][0, :3] < -0.9).all(), "a missed positive pulls with full force"


@pytest.mark.parametrize("name", ["bce", "focal"])
def test_a_sure_false_positive_pushes_with_full_force(name):
    logits = torch.tensor([[20.0, 50, 100]], requires_grad=True)
    LOSSES[name](logits, torch.zeros(1, 3), reduction="sum").backward()
    assert (logits.grad > 0.9).all()


def test_gradient_of_a_sure_false_positive_is_one_without_shift():
    logits = torch.tensor([[100.0]], requires_grad=True)
    asl(logits, torch.zeros(1, 1), shift=0.0).backward()
    assert logits.grad.item() == pytest.approx(1.0)


def test_fractional_focus_gives_zero_not_nan_below_the_shift():
    logits = torch.tensor([[-10.0, -3.0, -2.9445, 5.0]], requires_grad=True)
    apl(logits, torch.zeros(1, 4), gamma_neg=0.5, detach_focus=False, reduction="sum").backward()
    assert logits.grad[0, :2].tolist() == [0.0, 0.0]
    assert torch.isfinite(logits.grad).all() and logits.grad[0, 3] > 0


@pytest.mark.parametrize("name", LOSSES)
def test_reductions(name):
    logits, targets = torch.tensor(LOGITS), torch.tensor(TARGETS)
    each = LOSSES[name](logits, targets, reduction="none")
    assert each.shape == logits.shape
    torch.testing.assert_close(LOSSES[name](logits, targets), each.mean())
    torch.testing.assert_close(LOSSES[name](logits, targets, reduction="sum"), each.sum())
    with pytest.raises(ValueError):
        LOSSES[name](logits, targets, reduction="median")


def test_settings_know_the_parameters_of_every_loss():
    taken = {name: inspect.signature(loss).parameters.values() for name, loss in LOSSES.items()}
    named = {name: {one.name for one in given if one.kind == one.KEYWORD_ONLY} for name, given in taken.items()}
    assert {name: {*options, "reduction"} for name, options in LOSS_OPTIONS.items()} == named
