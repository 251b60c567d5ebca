import math

import numpy as np
import pytest
import torch
from scipy.special import erf, expit, softmax

from mlclip.classifier import MultiLabelClassifier
from mlclip.data import Dataset, Item, assign_splits
from mlclip.errors import TrainError
from mlclip.heads import FeatureShapes
from mlclip.heads.fusion import HEAD_KINDS, MODES, FusionHead
from mlclip.settings import Recipe, TrainConfig
from mlclip.training.runs import evaluate_run, train_run

SHAPES = FeatureShapes(embedding_width=8, token_count=5, token_width=6, text_token_count=7, text_token_width=4)
WIDTH, CLASSES, TEXT_LENGTHS = 8, 3, (7, 2, 0, 4, 3, 1, 6, 5)
KINDS = [(mode, head) for mode in MODES for head in HEAD_KINDS]


def build(mode="concat", head="mlp", **options):
    """A head whose every parameter is random, so that none can be left out unnoticed."""
    torch.manual_seed(0)
    made = FusionHead.build(CLASSES, SHAPES, mode=mode, head=head, hidden=6, **options).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def features(head, batch=8):
    """Random features of images; a text of length 0 is missing."""
    draw = torch.Generator().manual_seed(1)
    shapes = {"embedding": (8,), "text_embedding": (8,), "tokens": (5, 6), "text_tokens": (7, 4)}
    made = {name: torch.randn(batch, *shape, generator=draw) for name, shape in shapes.items()}
    for name in ("embedding", "text_embedding"):
        made[name] = torch.nn.functional.normalize(made[name], dim=1)
    for row, length in enumerate(TEXT_LENGTHS[:batch]):
        made["text_tokens"][row, length:] = 0
        if not length:
            made["text_embedding"][row] = 0
    return [made[name] for name in head.inputs]


def linear(weights, name, x):
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def layer_norm(weights, name, x):
    return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x):
    return x * (1 + erf(x / math.sqrt(2))) / 2


def attended(weights, text_tokens, tokens, heads=4):
    answers = []
    for token in text_tokens:
        query = linear(weights, "attention.query", token)
        keys_values = [linear(weights, "attention.key_value", image_token) for image_token in tokens]
        answer = np.zeros(WIDTH)
        for h in range(heads):
            part = slice(h * WIDTH // heads, (h + 1) * WIDTH // heads)
            keys = np.array([kv[:WIDTH][part] for kv in keys_values])
            values = np.array([kv[WIDTH:][part] for kv in keys_values])
            answer[part] = softmax(keys @ query[part] / math.sqrt(WIDTH / heads)) @ values
        answers.append(linear(weights, "attention.out", answer))
    return layer_norm(weights, "attention.norm", np.mean(answers, axis=0))


def gmlp(weights, positions):
    through, gates = [], []
    for x in positions:
        inside = gelu(linear(weights, "classify.0.up", layer_norm(weights, "classify.0.norm", x)))
        through.append(inside[: len(inside) // 2])
        gates.append(layer_norm(weights, "classify.0.gate_norm", inside[len(inside) // 2 :]))
    mixed = weights["classify.0.mix"] @ np.array(gates) + weights["classify.0.mix_bias"]
    outputs = [x + linear(weights, "classify.0.down", u * g) for x, u, g in zip(positions, through, mixed, strict=True)]
    return linear(weights, "classify.1", np.mean(outputs, axis=0))


def expected(head, mode, kind, v, t, tokens=None, text_tokens=None):
    """The logits of one image, in float64."""
    weights = {name: value.double().numpy() for name, value in head.state_dict().items()}
    missing = not t.any()
    v, t = v * math.sqrt(WIDTH), weights["missing"] if missing else t * math.sqrt(WIDTH)
    gate = expit(linear(weights, "gate", np.concatenate([v, t]))) if mode == "gated" else None
    positions = [v, t]
    if mode == "attention":
        given = [weights["missing_token"]] if missing else [token for token in text_tokens if token.any()]
        positions.append(attended(weights, given, tokens))
    elif mode != "concat":
        fused = {"sum": v + t, "product": v * t, "gated": None if gate is None else gate * v + (1 - gate) * t}[mode]
        positions = [v, t, fused] if kind == "gmlp" else [fused]
    if kind == "gmlp":
        return gmlp(weights, positions)
    flat = np.concatenate(positions)
    return linear(weights, "classify.1", flat) if kind == "linear" else linear(
        weights, "classify.3", gelu(linear(weights, "classify.1", flat))
    )  # fmt: skip


@pytest.mark.parametrize(("mode", "kind"), KINDS)
def test_logits_equal_a_float64_computation(mode, kind):
    head = build(mode, kind)
    given = features(head)
    logits = head(*given).detach()
    rows = zip(*(tensor.double().numpy() for tensor in given), strict=True)
    np.testing.assert_allclose(logits, [expected(head, mode, kind, *row) for row in rows], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_reach_what_stands_in_for_missing_texts(mode):
    head = build(mode, "mlp")
    head(*features(head)).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_training_takes_texts_away_and_evaluation_does_not():
    head = build(dropout=0.0, text_dropout=0.5)
    v, t = (tensor[:1].expand(400, -1) for tensor in features(head, 1))
    whole = head(v, t)
    without = head(v, torch.zeros_like(t))
    torch.manual_seed(0)
    trained = head.train()(v, t)
    taken = (trained - without).abs().amax(dim=1) < 1e-5
    assert 150 < taken.sum() < 250
    torch.testing.assert_close(trained[~taken], whole[~taken])


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("concat", "linear"), ("sum", "gmlp"), ("product", "mlp"), ("gated", "mlp"), ("attention", "gmlp")],
)
def test_the_exported_graph_equals_torch(mode, kind, graph_equals):
    head = build(mode, kind).requires_grad_(False)
    graph_equals(head, lambda n: features(head, n), atol=1e-4)


@pytest.fixture
def titled(pictures):
    """Pictures whose texts tell one of their two colours, in part of them; the picture tells both."""
    paths, labels = pictures
    items = tuple(
        Item(path, names, text=f"so {names[0]}" if n % 3 else None)
        for n, (path, names) in enumerate(zip(paths, labels, strict=True))
    )
    return assign_splits(Dataset(items, ("blue", "green", "red", "white")), (0.6, 0.2, 0.2), seed=0)


@pytest.mark.parametrize("mode", ["concat", "attention"])
def test_it_learns_from_pictures_with_and_without_texts(mode, titled, encoder, cache):
    options = {"mode": mode, "hidden": 32, "dropout": 0.0}
    run = train_run(titled, encoder, cache, Recipe("fusion", options, TrainConfig(lr=5e-3, epochs=60, patience=20)))
    assert evaluate_run(run, titled, cache).mean_average_precision > 0.8, "chance is about 0.45"


def test_the_classifier_takes_texts(titled, encoder, tmp_path):
    images, labels = [item.path for item in titled.items], [item.labels for item in titled.items]
    texts = [" and ".join(names) for names in labels]
    training = TrainConfig(lr=5e-3, epochs=20)
    options = {"hidden": 32, "dropout": 0.0}
    classifier = MultiLabelClassifier("fusion", encoder, options=options, training=training, cache=tmp_path)
    classifier.fit(images[:70], labels[:70], texts[:70])
    of_another = [texts[-1]] * 20
    assert classifier.predict(images[70:], of_another) != classifier.predict(images[70:])
    with pytest.raises(TrainError, match="20 images but 19 texts"):
        classifier.predict(images[70:], texts[71:])


def test_an_encoder_without_text_tokens_is_refused_for_attention(titled, encoder, cache, monkeypatch):
    monkeypatch.setattr(encoder, "text_token_count", 0)
    with pytest.raises(TrainError, match="use another --mode"):
        train_run(titled, encoder, cache, Recipe("fusion", {"mode": "attention"}))
