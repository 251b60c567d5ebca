"""Exported graphs compute what torch computes, at batch sizes that they were not traced with."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mlclip_export.graphs import FILE, write_encoder, write_head, write_threshold
from mlclip_export.parity import compare, compare_threshold

from mlclip.heads import FeatureShapes, build_head
from mlclip.novelty import fit_novelty

TOLERANCE = 1e-4
BATCHES = (1, 3, 8, 32)
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
SHAPES = FeatureShapes(embedding_width=24, token_count=5, token_width=32)


def features(kind, batch, seed=0):
    shape = (batch, 24) if kind == "embedding" else (batch, 5, 32)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + batch))


def head_of(name, classes, **options):
    torch.manual_seed(0)
    head = build_head(name, classes, SHAPES, **options).eval()
    if options.get("queries") == "text":
        head.queries.text.copy_(torch.randn(classes, 24))
    return head


def exported_head(head, folder):
    write_head(head, [features(kind, 2) for kind in head.inputs], folder)
    return folder / FILE


def head_difference(head, folder):
    path = exported_head(head, folder)
    cases = []
    for batch in BATCHES:
        inputs = {kind: features(kind, batch) for kind in head.inputs}
        with torch.no_grad():
            logits = head(*inputs.values())
        cases.append(({kind: tensor.numpy() for kind, tensor in inputs.items()}, {"logits": logits.numpy()}))
    (difference,) = compare("head", path, cases)
    return difference.value


def encoder_differences(encoder, folder):
    size, cases = encoder.spec.size, []
    for batch in BATCHES:
        draw = torch.Generator().manual_seed(batch)
        pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, generator=draw)
        with torch.no_grad():
            embedding, tokens = encoder(pixels)
        outputs = {"embedding": embedding, "tokens": tokens, "embedding_out": embedding}
        found = {name: tensor.numpy() for name, tensor in outputs.items() if tensor is not None}
        cases.append(({"pixels": pixels.numpy()}, found))
    return {difference.output: difference.value for difference in compare("encoder", folder / FILE, cases)}


@pytest.mark.parametrize("classes", [1, 7, 46])
def test_sigmoid_head_equals_torch(classes, tmp_path):
    assert head_difference(head_of("sigmoid", classes), tmp_path) <= TOLERANCE


@pytest.mark.parametrize(("classes", "groups"), [(1, 1), (1, 45), (7, 8), (46, 1), (46, 8), (46, 45)])
def test_mld_head_equals_torch(classes, groups, tmp_path):
    head = head_of("mld", classes, groups=groups, layers=1, hidden=64)
    assert head_difference(head, tmp_path) <= TOLERANCE


@pytest.mark.parametrize(
    "options",
    [{"layers": 2}, {"memory": "pooled", "readout": "mean"}, {"queries": "text"}, {"queries": "fixed"}],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_mld_variants_equal_torch(options, tmp_path):
    assert head_difference(head_of("mld", 7, hidden=64, **options), tmp_path) <= TOLERANCE


@pytest.mark.parametrize("output", ["logits", "scores"])
@pytest.mark.parametrize("classes", [1, 7, 46, 1000])
def test_threshold_equals_torch(classes, output, tmp_path):
    thresholds = np.linspace(0.01, 0.99, classes, dtype=np.float32)
    write_threshold(thresholds, output, tmp_path)
    differences = {d.output: d.value for d in compare_threshold("threshold", tmp_path / FILE, thresholds, output)}
    assert differences.pop("scores") <= 1e-6
    assert differences == {"selected": 0, "top_index": 0, "top_score": 0}


def fitted(classes):
    """A calibration, and a measure of novelty."""
    draw = np.random.default_rng(classes)
    rows = draw.normal(size=(90, 24)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    maps = np.float32([draw.uniform(0.2, 3, classes), draw.normal(size=classes)])
    return maps, fit_novelty(rows[:60], rows[60:])


@pytest.mark.parametrize("output", ["logits", "scores"])
@pytest.mark.parametrize("classes", [1, 46])
def test_calibrated_scores_and_novelty_equal_those_of_training(classes, output, tmp_path):
    thresholds, (maps, novelty) = np.linspace(0.01, 0.99, classes, dtype=np.float32), fitted(classes)
    write_threshold(thresholds, output, tmp_path, maps, novelty)
    compared = compare_threshold("threshold", tmp_path / FILE, thresholds, output, maps, novelty)
    differences = {d.output: d.value for d in compared}
    assert differences.pop("scores") <= 1e-5 and differences.pop("novelty") <= 1e-5
    assert differences == {"selected": 0, "top_index": 0, "top_score": 0}
    others = compare_threshold("threshold", tmp_path / FILE, thresholds, output, maps * 1.01, fitted(classes + 1)[1])
    wrong = {d.output: d.value for d in others}
    assert wrong["scores"] > 1e-4 and wrong["novelty"] > 1e-4


def test_score_equal_to_its_threshold_is_selected(tmp_path):
    write_threshold(np.array([0.5, np.nextafter(np.float32(0.5), np.float32(1))], dtype=np.float32), "logits", tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / FILE)
    (selected,) = session.run(["selected"], {"logits": np.zeros((1, 2), dtype=np.float32)})
    assert selected.tolist() == [[True, False]]


def test_preview_holds_at_most_32_classes_best_first(tmp_path):
    write_threshold(np.full(46, 0.5, dtype=np.float32), "logits", tmp_path)
    logits = np.linspace(-3, 3, 46, dtype=np.float32)[None]
    index, score = onnxruntime.InferenceSession(tmp_path / FILE).run(["top_index", "top_score"], {"logits": logits})
    assert index.dtype == np.int32
    assert index.tolist() == [list(range(45, 13, -1))]
    np.testing.assert_allclose(score, 1 / (1 + np.exp(-logits[:, ::-1][:, :32])), atol=1e-6)


def test_wrong_threshold_graph_is_noticed(tmp_path):
    write_threshold(np.full(7, 0.5, dtype=np.float32), "logits", tmp_path)
    differences = compare_threshold("threshold", tmp_path / FILE, np.full(7, 0.6, dtype=np.float32), "logits")
    assert {d.output: d.value for d in differences}["selected"] == 1.0


def timm_tower(name, pool):
    return {"image_size": 64, "timm_model_name": name, "timm_pool": pool, "timm_proj": "none"}


@pytest.mark.parametrize(
    ("vision", "width", "places"),
    [
        (RESNET, 24, 1),
        (timm_tower("test_efficientnet", "avg"), 256, 4),
        (timm_tower("small_siglip", "map"), 16, 16),  # no class token, attention pooling
        (timm_tower("small_swin", "avg"), 32, 64),  # channels last
    ],
    ids=("resnet", "efficientnet", "siglip", "swin"),
)
def test_every_kind_of_tower_equals_torch(make_encoder, small_towers, vision, width, places, tmp_path):
    encoder = make_encoder("tower", vision, embed_dim=width, size=vision["image_size"])
    assert encoder.token_count == places
    write_encoder(encoder, tmp_path)
    differences = encoder_differences(encoder, tmp_path)
    assert set(differences) == {"embedding", "tokens", "embedding_out"}
    assert max(differences.values()) <= TOLERANCE


@pytest.fixture(scope="module")
def small_towers():
    """Small towers of timm's own kinds, under names that open_clip can ask for."""
    import timm
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    def small_siglip(pretrained=False, **options):
        return VisionTransformer(
            img_size=64, patch_size=16, embed_dim=16, depth=1, num_heads=2, class_token=False, global_pool="map",
            num_classes=0,
        )  # fmt: skip

    def small_swin(pretrained=False, **options):
        return SwinTransformer(
            img_size=64, patch_size=4, window_size=4, embed_dim=16, depths=(1, 1), num_heads=(2, 2), num_classes=0
        )

    for tower in (small_siglip, small_swin):
        timm.models.register_model(tower)


@pytest.mark.parametrize(("few", "many"), [(48, 1000), (46, 1001)])
def test_mld_graph_does_not_grow_with_classes(few, many, tmp_path):
    """Neither classes nor groups are looped over. Where K divides N, the final cut to N classes falls away."""
    counts = []
    for classes in (few, many):
        folder = tmp_path / str(classes)
        folder.mkdir()
        path = exported_head(head_of("mld", classes, layers=1, hidden=64), folder)
        graph = onnx.load(path, load_external_data=False).graph
        assert not {"Loop", "Scan", "If"} & {node.op_type for node in graph.node}
        counts.append(len(graph.node))
    assert counts[0] == counts[1] < 100


@pytest.fixture(scope="module")
def written(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    write_encoder(encoder, folder)
    return folder


def test_encoder_equals_torch(encoder, written):
    differences = encoder_differences(encoder, written)
    assert set(differences) == {"embedding", "tokens", "embedding_out"}
    assert max(differences.values()) <= TOLERANCE


def test_graph_is_clean(written):
    model = onnx.load(written / FILE, load_external_data=False)
    readers = {node.op_type for node in model.graph.node if "pixels" in node.input}
    assert readers <= {"Cast", "Shape"}, "TensorRT takes uint8 only if it is cast at once"
    onnx.checker.check_model(written / FILE)
    assert [(o.domain, o.version >= 18) for o in model.opset_import] == [("", True)]
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.output} == {"batch"}
    text = model.SerializeToString()
    assert b".py" not in text and b"Traceback" not in text, "source paths of the exporting machine"
    assert {entry.name for entry in written.iterdir()} == {"model.onnx", "model.onnx.data"}


def test_same_weights_give_same_bytes_and_the_exporter_says_nothing(encoder, written, tmp_path, capfd):
    write_encoder(encoder, tmp_path)
    assert capfd.readouterr() == ("", "")
    for file in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / file).read_bytes() == (written / file).read_bytes()
