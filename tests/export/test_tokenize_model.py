"""The Python model that makes token ids: runs on Python 3.10 and gives the ids that training sees."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format
from mlclip_export.configs import tokenize_config
from mlclip_export.served import tokenize as tokenize_model
from mlclip_export.served.tokenize import TritonPythonModel
from open_clip.tokenizer import SimpleTokenizer

from .conftest import Backend

LENGTH = 32
TITLES = Path(__file__).parents[2] / "demo" / "data" / "manifest.jsonl"
STRINGS = [
    "a photo of a cat",
    "It's JOHN'S, they'll say: I'd go!",
    "  white\t\nspace  \u00a0 and \u2003 wide \u200b ones ",
    "caf\u00e9 cafe\u0301 Stra\u00dfe \u0130stanbul \u03a3\u0391\u03a3",
    "\u65e5\u672c\u8a9e \u30c6\u30ad\u30b9\u30c8 \uff26\uff35\uff2c\uff2c",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "\U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1ec\U0001f1e7",
    "Cassa d&#39;epoca &amp;amp; W&uuml;rttemberg",
    "\u00e2\u20ac\u0153mojibake\u00e2\u20ac\x9d sch\u00c3\u00b6n",
    "\u201csmart\u201d \u2018quotes\u2019 \ufb01ne \u2160 \u00bd \u2014 \u2026",
    "<start_of_text> tags <end_of_text> <|endoftext|>",
    "!!!! !~ a_b-c/d\\e 123 45.6",
    "control \x00 \x1f \x85 characters",
    "word " * 40,
    "exactly thirty " + "x " * 28,
    "&nbsp;",
    "x",
]


def request(*texts):
    """A request with the given texts, as bytes; without one where there are none."""
    pixels = Backend.Tensor("pixels", np.zeros((max(1, len(texts)), 4, 4, 3), dtype=np.uint8))
    if not texts:
        return {"pixels": pixels}
    return {"pixels": pixels, "text": Backend.Tensor("text", np.array([[text] for text in texts], dtype=np.object_))}


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(tokenize_model, "pb_utils", Backend)
    config = json_format.MessageToDict(tokenize_config("tokenize", LENGTH, 8), preserving_proto_field_name=True)
    served = TritonPythonModel()
    served.initialize({"model_config": json.dumps(config)})
    return served


def ids(model, *texts):
    (response,) = model.execute([request(*(text.encode() for text in texts))])
    (tensor,) = response.tensors
    assert tensor.name == "token_ids" and tensor.value.dtype == np.int64
    return tensor.value


@pytest.mark.parametrize("text", STRINGS)
def test_ids_are_open_clips(model, text):
    np.testing.assert_array_equal(ids(model, text)[0], SimpleTokenizer()([text], context_length=LENGTH)[0])


def test_ids_of_titles_and_of_any_characters_are_open_clips(model):
    """Of one character the two differ: U+0345, a Greek accent that Python's `regex` takes for a letter."""
    titles = [json.loads(line).get("text", "none") for line in TITLES.read_text(encoding="utf-8").splitlines()[:200]]
    known = [c for c in map(chr, range(32, 0x20000)) if unicodedata.category(c) not in ("Cn", "Cs") and c != "\u0345"]
    draw = np.random.default_rng(0)
    texts = titles + ["".join(draw.choice(known, size=12)) for _ in range(100)]
    np.testing.assert_array_equal(ids(model, *texts), SimpleTokenizer()(texts, context_length=LENGTH))


def test_a_text_that_is_missing_empty_or_blank_gives_zeros(model):
    (without,) = model.execute([request()])
    assert without.tensors[0].value.shape == (1, LENGTH)
    assert not without.tensors[0].value.any()
    assert not ids(model, "", " \t\n").any()


def test_requests_are_answered_apart(model):
    responses = model.execute([request(b"a cat"), request(), request(b"a", b"b", b"c")])
    assert [response.tensors[0].value.shape[0] for response in responses] == [1, 1, 3]
    assert [bool(response.tensors[0].value.any()) for response in responses] == [True, False, True]


def test_bytes_that_are_no_text_harm_nobody(model):
    (response,) = model.execute([request(b"a \xff\xfe cat")])
    (replaced,) = ids(model, "a \ufffd\ufffd cat")
    np.testing.assert_array_equal(response.tensors[0].value[0], replaced)
