"""CLIP's ViT-B/32 with random weights: the small encoders are not the only ones that export. Takes a while."""

from mlclip_export import export_runs

from mlclip.encoders.clip import load_encoder


def test_vit_b_32_exports_and_equals_torch(make_run, tmp_path):
    encoder = load_encoder("ViT-B-32", "random")
    report = export_runs({"mld": make_run(encoder, "mld", 46)}, tmp_path / "repository", encoders=[encoder])
    differences = {(d.model, d.output): d.value for d in report.differences}
    assert {output for model, output in differences if model == "encoder_vit-b-32-random"} == {
        "embedding",
        "tokens",
        "embedding_out",
    }
    assert max(differences.values()) <= 1e-4
    weights = tmp_path / "repository" / "encoder_vit-b-32-random" / "1" / "model.onnx.data"
    assert weights.stat().st_size > 300e6
