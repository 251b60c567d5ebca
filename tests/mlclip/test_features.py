import numpy as np
import pytest
import torch
from mlclip_client.pixels import to_pixels

from mlclip.encoders.clip import load_encoder
from mlclip.encoders.features import FeatureCache
from mlclip.errors import CacheError


def direct(encoder, paths):
    pixels = np.stack([to_pixels(path.read_bytes(), encoder.spec) for path in paths])
    with torch.inference_mode():
        return [features.numpy() for features in encoder(torch.from_numpy(pixels))]


def test_rows_are_the_encoders_features_in_the_order_asked(encoder, pictures, tmp_path):
    cache, paths = FeatureCache(encoder, tmp_path, batch_size=7), pictures[0][:20]
    embedding, tokens = direct(encoder, paths)
    order = np.random.default_rng(0).permutation(20)
    cache.rows(paths)
    rows = cache.rows([paths[n] for n in order])
    np.testing.assert_allclose(rows[:], embedding[order], atol=1e-6)
    assert rows[np.array([3])].dtype == np.float32
    np.testing.assert_allclose(cache.rows(paths, "tokens")[:], tokens, atol=4e-3)  # float16 on disk
    assert isinstance(rows.store, np.memmap)


def test_every_image_is_encoded_once(counted, pictures, tmp_path):
    encoder, seen, _ = counted
    paths = pictures[0][:10]
    FeatureCache(encoder, tmp_path).rows(paths)
    FeatureCache(encoder, tmp_path).rows([*paths, *paths, pictures[0][11]])
    assert sum(seen) == 11


def test_tokens_are_written_only_when_asked_for(encoder, pictures, tmp_path, caplog):
    cache = FeatureCache(encoder, tmp_path)
    with caplog.at_level("INFO", "mlclip"):
        cache.rows(pictures[0][:4])
        assert not list(cache.folder.glob("tokens*"))
        cache.rows(pictures[0][:4], "tokens")
    assert (cache.folder / "tokens.f16").stat().st_size == 4 * 17 * 32 * 2
    assert "tokens: 4 images with small" in caplog.messages[1] and "(4 kB)" in caplog.messages[1]


def test_a_changed_image_is_noticed(counted, pictures, tmp_path):
    encoder, seen, _ = counted
    path = tmp_path / "picture.png"
    path.write_bytes(pictures[0][0].read_bytes())
    cache = FeatureCache(encoder, tmp_path / "cache")
    before = cache.rows([path])[:]
    path.write_bytes(pictures[0][1].read_bytes())
    after = cache.rows([path])[:]
    assert sum(seen) == 2
    np.testing.assert_allclose(after, direct(encoder, [path])[0], atol=1e-6)
    assert np.abs(before - after).max() > 1e-3


def test_changed_preprocessing_has_a_cache_of_its_own(encoder, encoder_folder, pictures, tmp_path):
    config = encoder_folder / "open_clip_config.json"
    original = config.read_text()
    try:
        config.write_text(original.replace('"squash"', '"shortest"'))
        other = load_encoder(str(encoder_folder))
    finally:
        config.write_text(original)
    assert FeatureCache(other, tmp_path).folder != FeatureCache(encoder, tmp_path).folder


@pytest.mark.parametrize(
    ("file", "cut", "again"),
    [("keys", 1, 1), ("keys", 40, 1), ("keys", 96, 2), ("keys", 329, 5), ("f32", 10, 1)],
)
def test_a_killed_writer_is_resumed(counted, pictures, tmp_path, file, cut, again):
    """Killed between writing rows and keys, or in the middle of either: whole pairs are kept, the rest done again."""
    encoder, seen, _ = counted
    paths = pictures[0][:12]
    cache = FeatureCache(encoder, tmp_path, batch_size=4)
    whole, path = cache.rows(paths)[:], cache.folder / f"embedding.{file}"
    path.write_bytes(path.read_bytes()[:-cut])
    seen.clear()
    rows = FeatureCache(encoder, tmp_path).rows(paths)
    assert sum(seen) == again and len(rows.store) == 12
    np.testing.assert_allclose(rows[:], whole, atol=1e-6)


@pytest.mark.parametrize(
    ("damage", "again"),
    [
        (lambda rows, keys: rows.unlink(), 12),
        (lambda rows, keys: keys.unlink(), 12),
        (lambda rows, keys: rows.write_bytes(rows.read_bytes()[: len(rows.read_bytes()) // 2]), 6),
        (lambda rows, keys: rows.write_bytes(bytes(len(rows.read_bytes()))), 12),
        (lambda rows, keys: keys.write_bytes(b"".join(reversed(keys.read_bytes().splitlines(keepends=True)))), 12),
        (lambda rows, keys: keys.write_bytes(b"\n".join(line[:64] for line in keys.read_bytes().splitlines())), 12),
    ],
    ids=["no rows", "no keys", "half of the rows", "zeros for rows", "keys of another file", "keys without checksums"],
)
def test_files_of_a_cache_that_do_not_belong_together_are_computed_again(damage, again, counted, pictures, tmp_path):
    encoder, seen, _ = counted
    paths, others = pictures[0][:12], pictures[0][20:25]
    cache = FeatureCache(encoder, tmp_path)
    whole = cache.rows(paths)[:]
    damage(cache.folder / "embedding.f32", cache.folder / "embedding.keys")
    np.testing.assert_allclose(cache.rows(others)[:], direct(encoder, others)[0], atol=1e-6)
    seen.clear()
    for _ in range(2):
        np.testing.assert_allclose(FeatureCache(encoder, tmp_path).rows(paths)[:], whole, atol=1e-6)
    assert sum(seen) == again


def test_a_broken_image_is_named_and_the_rest_stays(counted, pictures, tmp_path):
    encoder, seen, _ = counted
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    cache = FeatureCache(encoder, tmp_path / "cache", batch_size=2)
    with pytest.raises(CacheError, match="broken.jpg: not an image"):
        cache.rows([*pictures[0][:4], broken])
    cache.rows(pictures[0][:4])
    assert sum(seen) == 4
    with pytest.raises(CacheError, match="cannot read the image .*missing.png"):
        cache.rows([tmp_path / "missing.png"])


def test_an_encoder_without_text_tokens_says_so(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "text_token_count", 0)
    with pytest.raises(CacheError, match="gives no text tokens"):
        FeatureCache(encoder, tmp_path).text_rows(["a"], "text_tokens")
