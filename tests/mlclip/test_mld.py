"""ML-Decoder against an independent float64 computation written from the formulas, not from the code."""

import numpy as np
import pytest
import torch

from mlclip.heads.decoder import _few_queries
from mlclip.heads.mld import MLDecoder

WIDTH, TOKENS = 16, 5


def weights(head):
    return {name: value.detach().double().numpy() for name, value in head.state_dict().items()}


def layer_norm(x, w, name):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(target, memory, w, name, heads):
    width = target.shape[-1]
    keys, values = np.split(memory @ w[f"{name}.key_value.weight"].T + w[f"{name}.key_value.bias"], 2, axis=-1)
    queries = target @ w[f"{name}.query.weight"].T + w[f"{name}.query.bias"]
    out, size = np.zeros(target.shape), width // heads
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        logits = queries[:, part] @ keys[:, part].T / np.sqrt(size)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        out[:, part] = shares / shares.sum(-1, keepdims=True) @ values[:, part]
    return out @ w[f"{name}.out.weight"].T + w[f"{name}.out.bias"]


def layout(classes, groups):
    """Which (group, slot) gives the logit of each class."""
    factor = int(np.ceil(classes / groups))
    if (classes - 1) // factor == groups - 1:
        return [(n // factor, n % factor) for n in range(classes)]
    return [
        (group, slot) for group, part in enumerate(np.array_split(range(classes), groups)) for slot in range(len(part))
    ]


def decode(head, features, heads):
    """One image's features [T, W] (or [D]) to the decoder's output [K, E], in float64."""
    w = weights(head)
    pooled = head.config["memory"] == "pooled"
    memory = np.atleast_2d(features) @ w["memory.weight"].T + w["memory.bias"]
    memory = memory if pooled else np.maximum(memory, 0)
    target = w["queries.weight"]
    for layer in range(head.config["layers"]):
        name = f"layers.{layer}"
        target = layer_norm(2 * target, w, f"{name}.norm1")
        target = layer_norm(target + attention(target, memory, w, name, heads), w, f"{name}.norm2")
        hidden = np.maximum(target @ w[f"{name}.up.weight"].T + w[f"{name}.up.bias"], 0)
        target = layer_norm(target + hidden @ w[f"{name}.down.weight"].T + w[f"{name}.down.bias"], w, f"{name}.norm3")
    return target


def expected_logits(head, features, heads=4):
    w, classes, groups = weights(head), head.config["classes"], head.config["groups"]
    rows = []
    for image in features:
        decoded = decode(head, image, heads)
        rows.append([decoded[group] @ w["readout.weight"][group, :, slot] for group, slot in layout(classes, groups)])
    return np.array(rows) + w["readout.bias"]


def random_head(seed=0, **options):
    torch.manual_seed(seed)
    head = MLDecoder(width=WIDTH, **{"hidden": 24, **options}).eval()
    for parameter in head.parameters():  # zeros and ones would hide a forgotten bias or norm
        torch.nn.init.normal_(parameter, std=0.3)
    return head


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("groups", [1, 8, 45, 100, "N"])
@pytest.mark.parametrize("classes", [1, 7, 46, 80, 1000])
def test_logits_equal_an_independent_float64_computation(classes, groups, layers):
    groups = classes if groups == "N" else groups
    head = random_head(classes=classes, groups=groups, layers=layers).double()
    features = np.random.default_rng(1).normal(size=(2, TOKENS, WIDTH))
    with torch.inference_mode():
        double = head(torch.from_numpy(features)).numpy()
        expected = expected_logits(head, features)
        single = head.float()(torch.from_numpy(features).float()).numpy()
    assert double.shape == (2, classes)
    np.testing.assert_allclose(double, expected, rtol=0, atol=1e-7)
    np.testing.assert_allclose(single, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("classes", "groups"), [(46, 45), (46, 40), (1000, 999), (10, 8), (80, 8), (46, 8)])
def test_no_group_is_left_without_a_class(classes, groups):
    head = random_head(classes=classes, groups=groups)
    head(torch.randn(1, TOKENS, WIDTH)).sum().backward()
    used = head.readout.weight.grad.abs().amax(dim=(1, 2)) > 0
    assert used.all()


def test_groups_are_clamped_to_the_classes_and_the_plain_layout_is_kept_where_no_group_is_dead():
    assert random_head(classes=7, groups=100).config["groups"] == 7
    assert random_head(classes=46, groups=8).readout.index is None
    assert random_head(classes=46, groups=45).readout.index is not None


def test_pooled_memory_and_mean_readout_equal_float64():
    head = random_head(classes=9, groups=3, memory="pooled", readout="mean").double()
    features = np.random.default_rng(2).normal(size=(4, WIDTH))
    w = weights(head)
    expected = [decode(head, image, 4).mean(0) @ w["readout.weight"].T + w["readout.bias"] for image in features]
    with torch.inference_mode():
        np.testing.assert_allclose(head(torch.from_numpy(features)).numpy(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("queries", [1, 3, 8])
def test_both_orders_of_attention_give_the_same(queries, monkeypatch):
    """Also gradients; which one is taken depends on the numbers of queries and tokens only."""
    layer = random_head(classes=9, groups=3).double().layers[0]
    target, memory = torch.randn(2, queries, WIDTH).double(), torch.randn(2, 50, WIDTH).double()
    found = []
    for few in (True, False):
        monkeypatch.setattr("mlclip.heads.decoder._few_queries", lambda *shapes, few=few: few)
        layer.zero_grad()
        attended = layer._attend(target, memory)
        attended.pow(2).sum().backward()
        found.append((attended, [p.grad for p in (layer.query.weight, layer.key_value.weight, layer.key_value.bias)]))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-9)


def test_few_queries_are_projected_instead_of_many_tokens():
    few = [_few_queries(queries, 4, torch.empty(1, 50, 768)) for queries in (1, 8, 41, 42, 1000)]
    assert few == [True, True, True, False, False]


def test_text_queries_score_each_class_from_its_own_text():
    head = random_head(classes=4, queries="text", text_width=6)
    text = torch.randn(4, 6)
    head.queries.text.copy_(text)
    tokens = torch.randn(3, TOKENS, WIDTH)
    logits = head(tokens)
    head.queries.text.copy_(text.flip(0))
    torch.testing.assert_close(head(tokens), logits.flip(1))


def test_training_mode_draws_dropout_anew_for_each_image():
    head = random_head(classes=4).train()
    same = torch.randn(1, TOKENS, WIDTH).expand(6, -1, -1)
    assert len({tuple(row.tolist()) for row in head(same)}) == 6


def test_config_builds_the_same_head_again():
    head = random_head(classes=46, groups=45)
    again = MLDecoder(**head.config).eval()
    again.load_state_dict(head.state_dict())
    tokens = torch.randn(2, TOKENS, WIDTH)
    torch.testing.assert_close(again(tokens), head(tokens), rtol=0, atol=0)
