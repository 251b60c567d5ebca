import numpy as np
import torch

from mlclip.heads.alignment import AlignmentLoss
from mlclip.heads.mld import MLDecoder


def setup():
    torch.manual_seed(0)
    text = torch.nn.functional.normalize(torch.randn(5, 6), dim=1)
    head = MLDecoder(classes=5, width=8, hidden=16, attention_heads=2)
    targets = torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    return head, AlignmentLoss(text, 8), torch.randn(3, 4, 8), targets


def test_value_equals_the_formula():
    head, alignment, tokens, targets = setup()
    decoded = head.eval().decode(tokens)
    image = alignment.project(decoded.mean(1)).detach().double().numpy()
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    logits = alignment.log_scale.exp().item() * image @ alignment.text.double().numpy().T
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = (-(log_softmax[0, 0] + log_softmax[0, 2]) / 2 - log_softmax[1, 4]) / 2
    np.testing.assert_allclose(alignment(decoded, targets).item(), expected, rtol=1e-5)


def test_its_gradient_reaches_the_whole_decoder():
    head, alignment, tokens, targets = setup()
    alignment(head.eval().decode(tokens), targets).backward()
    taught = {name: p.grad is not None and bool(p.grad.abs().sum() > 0) for name, p in head.named_parameters()}
    silent = {"readout.weight", "readout.bias"} | {f"layers.{n}.key_value.bias" for n in (0, 1)}
    assert all(taught[name] for name in taught.keys() - silent)
    assert not taught["readout.weight"], "the projection stands in for the readout, which is not touched"


def test_images_without_labels_cost_nothing():
    head, alignment, tokens, targets = setup()
    loss = alignment(head.decode(tokens), torch.zeros_like(targets))
    loss.backward()
    assert loss.item() == 0.0
    assert not alignment.project.weight.grad.any()
