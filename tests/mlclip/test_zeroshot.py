"""Zero-shot scores against float64 loops, and what its options come to."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mlclip.data import read_dataset
from mlclip.encoders.clip import load_encoder
from mlclip.encoders.features import FeatureCache, Features
from mlclip.errors import DataError, TrainError
from mlclip.heads import FeatureShapes, LabelTexts, build_head
from mlclip.metrics import mean_average_precision
from mlclip.settings import Recipe
from mlclip.training.loop import predict_scores
from mlclip.training.runs import train_run

from .made import unit_rows

DEMO = Path(__file__).parents[2] / "demo" / "data" / "manifest.jsonl"
LABELS = ("blue", "green", "red", "white")
CONTEXTS, WEIGHTS = ["a {} picture", "{}"], [100, 25]


def images_for(encoder, count, seed=0):
    return torch.from_numpy(unit_rows(count, seed, encoder.embedding_width))


def prepared(encoder, labels=LABELS, **options):
    head = build_head("zeroshot", len(labels), FeatureShapes(encoder.embedding_width, 0, 0), **options)
    head.prepare(None, None, LabelTexts(labels, encoder.encode_text), seed=0)
    return head.eval()


def test_scores_equal_a_float64_computation(encoder):
    head, images = prepared(encoder, contexts=CONTEXTS, weights=WEIGHTS), images_for(encoder, 3)
    expected = np.zeros((3, 4))
    for n, label in enumerate(LABELS):
        text = np.zeros(encoder.embedding_width)
        for context, weight in zip(CONTEXTS, WEIGHTS, strict=True):
            vector = encoder.encode_text([context.replace("{}", label)])[0].double().numpy()
            text += weight / 125 * vector / np.linalg.norm(vector)
        for i, image in enumerate(images.double().numpy()):
            cosine = sum(a * b for a, b in zip(image, text, strict=True)) / np.linalg.norm(text)
            expected[i, n] = (cosine + 1) / 2
    np.testing.assert_allclose(head(images).numpy(), expected, rtol=0, atol=1e-6)


def test_scores_stay_in_range_at_both_ends(encoder):
    head = prepared(encoder)
    ends = head(torch.cat([head.text, -head.text]) * (1 + 1e-6))
    assert ends.max() == 1 and ends.min() == 0


def test_translated_labels_are_what_the_text_tower_reads(encoder, tmp_path):
    (tmp_path / "de.json").write_text(json.dumps({"red": "rot", "blue": "blau"}))
    (tmp_path / "contexts.txt").write_text("ein Bild in {}\n")
    head = prepared(encoder, contexts=str(tmp_path / "contexts.txt"), translations=str(tmp_path / "de.json"))
    words = [f"ein Bild in {word}" for word in ("blau", "green", "rot", "white")]
    torch.testing.assert_close(head.text, encoder.encode_text(words))
    assert head.facts() == {"untranslated_labels": {"de": 2}}


def test_weights_that_tune_may_vary_are_as_many_as_the_contexts(encoder):
    head = prepared(encoder, contexts=["{}", "[de] ein {}"], translations={"de": {"red": "rot"}}, keep_labels=True)
    assert len(head.config[head.search["weights"].each]) == 3
    tuned = prepared(encoder, **{name: head.config[name] for name in ("contexts", "translations")}, weights=[0, 0, 9])
    torch.testing.assert_close(tuned.text[2], encoder.encode_text(["ein rot"])[0])


def test_the_shipped_encoder_knows_labels_by_their_words(tmp_path):
    encoder, part = load_encoder(), read_dataset(DEMO).split("test")
    assert {"road sign", "stick figure"} < set(part.classes)
    head = prepared(encoder, labels=part.classes)
    rows = Features((FeatureCache(encoder, tmp_path).rows([item.path for item in part.items]),))
    targets = part.targets()
    quality = mean_average_precision(targets, predict_scores(head, rows))
    assert quality > 4 * targets.mean(), "chance is the prevalence"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weights": [0]}, TrainError, "all weights are 0"),
        ({"contexts": "nowhere.txt"}, DataError, "cannot read nowhere.txt"),
        ({"translations": {"de": {"cat": "Katze"}}}, TrainError, "hold none of the labels"),
        ({"context": "a {}"}, TrainError, "zeroshot does not take context='a {}': .mlclip heads zeroshot. lists"),
    ],
)
def test_what_cannot_work_says_why(options, error, message, dataset, encoder, cache):
    with pytest.raises(error, match=message):
        train_run(dataset, encoder, cache, Recipe("zeroshot", options))


def test_onnx_equals_torch(encoder, graph_equals):
    graph_equals(prepared(encoder, contexts=CONTEXTS), lambda n: [images_for(encoder, n, n)], atol=1e-6)
