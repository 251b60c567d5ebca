"""Encoders in int8 and bfloat16: what is written, and what the gate refuses."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from mlclip_export import ExportOptions, export_runs, reduce
from mlclip_export.facts import read_configs, read_facts
from mlclip_export.graphs import write_graph
from mlclip_export.options import ReduceOptions
from mlclip_export.quantize import attempts
from mlclip_export.reduce import Reduction, bfloat16_in_openvino
from onnx import numpy_helper

from mlclip.data import Dataset, Item, assign_splits
from mlclip.encoders.features import FeatureCache
from mlclip.errors import ExportError
from mlclip.novelty import Novelty
from mlclip.settings import Recipe, TrainConfig
from mlclip.training.runs import train_run

MODEL = "encoder_nano/1/model.onnx"


@pytest.fixture(scope="module")
def trained(encoder, pictures, tmp_path_factory):
    """A head on the embedding and one on the tokens, their data, and the folder of the features cache."""
    items = tuple(Item(path, names) for path, names in zip(*pictures, strict=True))
    data = assign_splits(Dataset(items, ("blue", "green", "red", "white")), (0.6, 0.3, 0.1), seed=0)
    cache = FeatureCache(encoder, tmp_path_factory.mktemp("features"))
    recipes = (Recipe("sigmoid"), Recipe("mld", {"hidden": 32, "groups": 4}, TrainConfig(epochs=15, lr=3e-3)))
    return {recipe.head: train_run(data, encoder, cache, recipe) for recipe in recipes}, data, cache.root


@pytest.fixture
def export(encoder, trained, tmp_path):
    """Export the runs in a precision; gives the repository and what was judged."""
    runs, data, cache = trained
    judged = []

    def run(precision, heads=tuple(runs), **options):
        chosen = {name: runs[name] for name in heads}
        given = ReduceOptions(precision, calibration=20, **{"min_agreement": 0.8, "max_map_loss": 3.0, **options})
        reduction = Reduction(given, dict.fromkeys(chosen, data), cache, judged.append)
        export_runs(chosen, tmp_path / "repository", ExportOptions(), encoders=[encoder], reduce=reduction)
        return tmp_path / "repository"

    return run, judged


def break_weight(path, scale=-1.0):
    """Multiply one weight of a quantized graph, in its file."""
    model = onnx.load(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = [
        node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants
    ]
    tensor = constants[scales[0]]
    tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) * scale).astype(np.float32), tensor.name))
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")


def breaking(monkeypatch, when=lambda kept: True):
    """Break a weight of every graph that is quantized, or of some."""
    quantize = reduce.quantize

    def broken(source, folder, images, kept):
        quantize(source, folder, images, kept)
        if when(kept):
            break_weight(folder / "model.onnx")

    monkeypatch.setattr(reduce, "quantize", broken)


def test_int8_is_judged_in_every_runtime_and_asks_for_openvino(export):
    run, judged = export
    repository = run("int8")
    (first,) = judged
    assert [(one.head, one.reads, one.runtime) for one in first] == [
        (head, reads, runtime)
        for head, reads in (("sigmoid", ("embedding",)), ("mld", ("tokens",)))
        for runtime in ("onnxruntime", "openvino")
    ]
    assert all(one.passed and one.left == "" for one in first)
    model = onnx.load(repository / MODEL)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantizers = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert {constants[node.input[2]].dtype for node in quantizers} == {np.dtype(np.int8)}
    assert not any(constants[node.input[2]].any() for node in quantizers), "TensorRT reads symmetric ranges only"
    assert any(constants[node.input[1]].ndim for node in quantizers), "weights have a scale per channel"
    assert read_facts(repository).encoders["nano"].precision == "int8"
    accelerators = read_configs(repository)["encoder_nano"].optimization.execution_accelerators
    assert [one.name for one in accelerators.cpu_execution_accelerator] == ["openvino"]
    assert 'value: "INT8"' in (repository / "encoder_nano/configs/tensorrt.pbtxt").read_text()


def test_encoder_of_heads_that_are_not_judged_stays(export, trained, encoder, tmp_path):
    run, _ = export
    runs, *_ = trained
    repository = tmp_path / "repository"
    export_runs(runs, repository, encoders=[encoder])
    before = (repository / MODEL).read_bytes()
    with pytest.raises(ExportError, match="gets another precision, and mld read it: export them too"):
        run("int8", heads=("sigmoid",))
    assert (repository / MODEL).read_bytes() == before


@pytest.mark.skipif(not bfloat16_in_openvino(), reason="OpenVINO has no bfloat16 on this CPU")
def test_bf16_is_the_float32_file_with_another_config(export, trained, encoder, tmp_path):
    run, judged = export
    repository = run("bf16")
    assert {one.runtime for one in judged[0]} == {"openvino"}
    runs, *_ = trained
    export_runs(runs, tmp_path / "float32", encoders=[encoder])
    for name in ("model.onnx", "model.onnx.data"):
        assert (repository / "encoder_nano/1" / name).read_bytes() == (
            tmp_path / "float32/encoder_nano/1" / name
        ).read_bytes()
    config = read_configs(repository)["encoder_nano"]
    assert config.parameters["precision"].string_value == "bf16"
    assert not read_configs(tmp_path / "float32")["encoder_nano"].HasField("optimization")


def test_bf16_is_refused_on_a_cpu_without_it(export, monkeypatch, tmp_path):
    run, _ = export
    monkeypatch.setattr(reduce, "bfloat16_in_openvino", lambda: False)
    with pytest.raises(ExportError, match="this CPU has no bfloat16, so its effect cannot be measured"):
        run("bf16")
    assert not (tmp_path / "repository").exists()


def test_broken_weight_is_refused_and_nothing_is_written(export, monkeypatch, tmp_path):
    breaking(monkeypatch)
    run, judged = export
    with pytest.raises(ExportError, match=r"encoder_nano in int8 changes head .* too much: .* points of mAP lost"):
        run("int8")
    assert not list(tmp_path.glob("repository/*"))
    lefts = [attempt[0].left for attempt in judged]
    assert lefts == ["", "the first and the last block", "the first and the last block, attention"]
    assert not any(all(one.passed for one in attempt) for attempt in judged)


def test_sensitive_parts_stay_in_float32(export, monkeypatch):
    breaking(monkeypatch, when=lambda kept: not kept)
    run, judged = export
    repository = run("int8")
    assert [attempt[0].left for attempt in judged] == ["", "the first and the last block"]
    nodes = onnx.load(repository / MODEL).graph.node
    made = {name: node for node in nodes for name in node.output}
    (patches,) = [node for node in nodes if node.op_type == "Conv"]
    assert made.get(patches.input[1]) is None, "its weight is no longer quantized"


def test_refit_trains_heads_on_the_reduced_features(export, monkeypatch, trained):
    breaking(monkeypatch)
    run, judged = export
    runs, _, cache = trained
    one = np.zeros((1, 16), np.float32)
    trusted = {"calibration": np.ones((2, len(runs["sigmoid"].labels)), np.float32), "novelty": Novelty(one, one, one)}
    promised = runs["sigmoid"].training | {"promise": {"classes": {}}}
    monkeypatch.setitem(runs, "sigmoid", replace(runs["sigmoid"], training=promised, **trusted))
    folders = set(cache.iterdir())
    repository = run("int8", heads=("sigmoid",), refit=True, min_agreement=0.0, max_map_loss=3.0)
    assert all(one.passed for one in judged[-1])
    assert set(cache.iterdir()) - folders, "the reduced features are kept"
    (weight,) = (
        numpy_helper.to_array(tensor)
        for tensor in onnx.load(repository / "head_sigmoid/1/model.onnx").graph.initializer
        if tensor.name.endswith("weight")
    )
    assert not np.allclose(weight, next(runs["sigmoid"].head.parameters()).numpy())
    config = read_configs(repository)["sigmoid"]
    assert "novelty" in {output.name for output in config.output}
    assert "promise" not in config.parameters, "it was about other scores"
    threshold = onnx.load(repository / "threshold_sigmoid/1/model.onnx").graph.initializer
    (centres,) = (numpy_helper.to_array(tensor) for tensor in threshold if tensor.name == "centres")
    assert centres.any(), "novelty and calibration are fitted again"


def test_validation_without_labels_says_nothing(encoder, trained):
    runs, data, _ = trained
    blank = Dataset(
        tuple(replace(item, labels=()) if item.split == "val" else item for item in data.items), data.classes
    )
    with pytest.raises(ExportError, match="no validation image has one of its labels"):
        Reduction(ReduceOptions("bf16"), {"sigmoid": blank}, trained[2])._selected("sigmoid", runs["sigmoid"], encoder)


@pytest.mark.parametrize(
    ("groups", "left"),
    [
        (1, ["", "the first and the last block"]),
        (8, ["depthwise convolutions", "depthwise convolutions, the first and the last block"]),
    ],
)
def test_depthwise_convolutions_always_stay(tmp_path, groups, left):
    layers = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 1), torch.nn.Conv2d(8, 8, 3, groups=groups))
    write_graph(layers, (torch.zeros(2, 8, 4, 4),), ("pixels",), ("map",), tmp_path)
    found = attempts(tmp_path / "model.onnx")
    assert list(found) == left and len(found[left[0]]) == (groups > 1)
