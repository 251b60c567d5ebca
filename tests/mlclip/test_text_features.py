import json

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from mlclip.encoders.clip import load_encoder
from mlclip.encoders.features import FeatureCache
from mlclip.encoders.text_tower import has_clip_tokens, read_text
from mlclip.errors import CacheError, EncoderError

TEXTS = ["a red ball", "two cats!!~ on grass", "long " * 40, "Été & co"]


def test_tokens_lead_to_the_embedding_and_end_with_the_text(encoder):
    embedding, tokens = encoder.encode_text_tokens(TEXTS)
    torch.testing.assert_close(embedding, encoder.encode_text(TEXTS))
    assert tokens.shape == (4, encoder.text_token_count, encoder.text_token_width) == (4, 16, 16)
    ids = encoder.tokenizer(TEXTS)
    ends = (ids == 49407).int().argmax(dim=1)
    assert ends.tolist() == [4, 7, 15, 5], "start, words, end; an over-long text ends at the last place"
    torch.testing.assert_close(
        torch.nn.functional.normalize(tokens[torch.arange(4), ends] @ encoder.model.text_projection, dim=1), embedding
    )
    for row, end in zip(tokens, ends, strict=True):
        assert row[: end + 1].abs().amax(dim=1).min() > 0
        assert not row[end + 1 :].any()


def test_a_zero_id_inside_a_text_is_no_padding(encoder):
    """CLIP pads with 0, and 0 is also the id of a "!" that begins a longer word."""
    ids = torch.zeros(1, 16, dtype=torch.long)
    ids[0, :4] = torch.tensor([49406, 0, 320, 49407])
    assert (read_text(encoder.model, ids)[1].abs().amax(dim=2) > 0).sum() == 4


@pytest.mark.parametrize("text", [{}, {"no_causal_mask": True, "pool_type": "last", "pad_id": 1}])
def test_text_towers_with_layers_of_their_own(text, architecture, tmp_path):
    """As in later families: pooled at the end token, or, as SigLIP does, at the last place, with a padding id."""
    config = json.loads(architecture.read_text())
    config["model_cfg"]["custom_text"] = True
    config["model_cfg"]["text_cfg"] |= text
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    model = open_clip.create_model(f"local-dir:{tmp_path}")
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    encoder = load_encoder(str(tmp_path))
    ids = torch.full((2, 16), text.get("pad_id", 0))
    ids[:, :5] = torch.tensor([49406, 320, 900, 7, 49407])
    embedding, tokens = read_text(encoder.model, ids)
    torch.testing.assert_close(embedding, encoder.model.encode_text(ids, normalize=True))
    assert tokens.shape == (2, encoder.text_token_count, encoder.text_token_width) == (2, 16, 16)
    assert not tokens[:, 5:].any() and tokens[:, :5].abs().amax(dim=2).min() > 0


def test_a_text_tower_without_tokens_says_so(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "text_token_count", 0)
    with pytest.raises(EncoderError, match="gives no tokens: use its embedding only"):
        encoder.encode_text_tokens(["a"])
    with pytest.raises(CacheError, match="gives no text tokens"):
        FeatureCache(encoder, tmp_path).text_rows(["a"], "text_tokens")
    assert FeatureCache(encoder, tmp_path).text_rows(["a"])[:].any()


def test_rows_are_the_features_of_the_texts_in_the_order_asked(encoder, tmp_path):
    cache = FeatureCache(encoder, tmp_path, batch_size=3)
    embedding, tokens = encoder.encode_text_tokens(TEXTS)
    cache.text_rows(TEXTS[:2])
    np.testing.assert_allclose(cache.text_rows(TEXTS[::-1])[:], embedding.flip(0), atol=1e-6)
    np.testing.assert_allclose(cache.text_rows(TEXTS, "text_tokens")[:], tokens, atol=4e-3)  # float16 on disk


def test_a_missing_text_is_a_row_of_zeros(encoder, tmp_path):
    cache = FeatureCache(encoder, tmp_path)
    for kind in ("text_embedding", "text_tokens"):
        rows = cache.text_rows([None, "cat", "", " \n\t"], kind)[:]
        assert rows[1].any()
        assert not rows[[0, 2, 3]].any()


def test_every_text_is_encoded_once(counted, tmp_path):
    encoder, _, seen = counted
    FeatureCache(encoder, tmp_path).text_rows([*TEXTS, *TEXTS])
    FeatureCache(encoder, tmp_path).text_rows([*TEXTS, "new"])
    assert seen == [*TEXTS, "new"]


def test_texts_and_images_do_not_meet(encoder, pictures, tmp_path):
    cache = FeatureCache(encoder, tmp_path)
    cache.text_rows(TEXTS)
    cache.rows(pictures[0][:3])
    assert len(cache.rows(pictures[0][:3]).store) == 3
    assert len(cache.text_rows(TEXTS).store) == 4


def test_another_text_tower_has_a_cache_of_its_own(encoder, encoder_folder, tmp_path):
    other = load_encoder(str(encoder_folder))
    with torch.no_grad():
        other.model.ln_final.bias[0] += 0.5
    assert other.fingerprint == encoder.fingerprint and other.text_fingerprint != encoder.text_fingerprint
    rows = [FeatureCache(e, tmp_path).text_rows(TEXTS)[:] for e in (encoder, other)]
    np.testing.assert_allclose(rows[1], other.encode_text(TEXTS), atol=1e-6)
    assert np.abs(rows[0] - rows[1]).max() > 1e-3


def test_only_clips_own_tokenizer_counts_as_such(encoder):
    assert has_clip_tokens(encoder.tokenizer)
    tokenizer = open_clip.tokenizer.SimpleTokenizer
    assert not has_clip_tokens(tokenizer(clean="canonicalize"))
    assert not has_clip_tokens(tokenizer(additional_special_tokens=["<new>"]))
    assert not has_clip_tokens(tokenizer(reduction_mask="shuffle"))
    assert not has_clip_tokens(open_clip.tokenizer.HFTokenizer)
