"""The repository on disk: layout, versions, what stays, what goes, and that nothing half-written is left."""

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mlclip_client import pixels
from mlclip_client.server.catalog import parameters_of
from mlclip_export import ConfigOptions, ExportOptions, build, export_runs
from mlclip_export.facts import read_configs, read_facts
from mlclip_export.repository import Model, locked, remove_models, write_models
from mlclip_export.served import preprocess as preprocess_model
from tritonclient.grpc import model_config_pb2 as pb

from mlclip.encoders.clip import load_encoder
from mlclip.errors import ExportError


def tree(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def versions(report):
    return {model.name: model.version for model in report.models}


def changed(report):
    return {model.name for model in report.models if model.changed}


def model(name, content=b"1", uses=(), **options):
    config = pb.ModelConfig(name=name)
    config.parameters["mlclip_kind"].string_value = "head"
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    accelerator.parameters["trt_engine_cache_path"] = f"/engines/{name}"
    for used in uses:
        config.ensemble_scheduling.step.add(model_name=used)
    configs = {"config.pbtxt": config, "configs/cuda.pbtxt": config}
    return Model(configs, files={"model.onnx": content}, beside={"labels.txt": b"a\n"}, **options)


def read(repository, name):
    return read_configs(repository)[name]


# Writing models, whatever they are


def test_new_model_is_version_1(tmp_path):
    (written,) = write_models(tmp_path, [model("a")])
    assert (written.name, written.version, written.changed) == ("a", 1, True)
    files = {"a/config.pbtxt", "a/configs/cuda.pbtxt", "a/labels.txt", "a/1/model.onnx"}
    assert set(tree(tmp_path)) == files | {"a/SHA256SUMS"}


def test_same_content_is_left_alone(tmp_path):
    write_models(tmp_path, [model("a")])
    before = (tmp_path / "a" / "config.pbtxt").stat()
    (written,) = write_models(tmp_path, [model("a")])
    assert (written.version, written.changed) == (1, False)
    after = (tmp_path / "a" / "config.pbtxt").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_new_content_counts_the_version_up_and_drops_the_old_one(tmp_path):
    write_models(tmp_path, [model("a")])
    (written,) = write_models(tmp_path, [model("a", b"2")])
    assert written.version == 2
    assert (tmp_path / "a" / "2" / "model.onnx").read_bytes() == b"2"
    assert not (tmp_path / "a" / "1").exists()


def test_config_learns_its_version_and_digest(tmp_path):
    write_models(tmp_path, [model("a")])
    config = read(tmp_path, "a")
    digest = config.parameters["content_sha256"].string_value
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.parameters["trt_engine_cache_path"] == f"/engines/a-1-{digest[:8]}"


def test_ensemble_moves_with_what_it_uses(tmp_path):
    write_models(tmp_path, [model("a"), model("b"), model("both", uses=("a", "b"))])
    written = write_models(tmp_path, [model("a", b"2"), model("b"), model("both", uses=("a", "b"))])
    assert {w.name: w.version for w in written} == {"a": 2, "b": 1, "both": 2}


def test_ensemble_knows_models_that_are_not_written_now(tmp_path):
    write_models(tmp_path, [model("a"), model("both", uses=("a",))])
    (written,) = write_models(tmp_path, [model("both", uses=("a",))])
    assert not written.changed


@pytest.mark.faults
@pytest.mark.parametrize("file", ["1/model.onnx", "config.pbtxt", "configs/cuda.pbtxt", "labels.txt", "SHA256SUMS"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes() + b"\n")])
def test_damaged_file_is_written_again(tmp_path, file, damage):
    write_models(tmp_path, [model("a")])
    before = tree(tmp_path)
    damage(tmp_path / "a" / file)
    (written,) = write_models(tmp_path, [model("a")])
    assert written.changed
    assert len(tree(tmp_path)) == len(before)
    check_sums(tmp_path / "a")


def check_sums(folder):
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, check=True)


def test_failure_while_staging_changes_nothing(tmp_path):
    write_models(tmp_path, [model("a")])
    before = tree(tmp_path)

    class NoPlan:
        key = "none"

        def build(self, version):
            raise ExportError("no plan")

    with pytest.raises(ExportError, match="no plan"):
        write_models(tmp_path, [model("a", b"2"), model("b", plan=NoPlan())])
    assert tree(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_staging_folder_of_a_killed_export_is_swept(tmp_path):
    (tmp_path / ".mlclip-export-killed" / "a").mkdir(parents=True)
    write_models(tmp_path, [model("a")])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_folder_of_someone_else_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.pbtxt").write_text('name: "a"')
    with pytest.raises(ExportError, match="was not written by mlclip-export"):
        write_models(tmp_path, [model("a")])


def test_stale_models_go_and_those_of_others_stay(tmp_path):
    write_models(tmp_path, [model("a"), model("b")])
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.pbtxt").write_text('name: "theirs"')
    assert remove_models(tmp_path, ["a"]) == ["b"]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "theirs"}


def test_unwritable_place_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write the model repository"), locked(tmp_path / "file"):
        pytest.fail("locked a file")


# Exports


def test_layout(exported):
    repository, report, runs = exported
    onnx = {"1/model.onnx", "config.pbtxt", "configs/cpu.pbtxt", "configs/cuda.pbtxt", "configs/tensorrt.pbtxt"}
    files = {}
    for path in tree(repository):
        name, _, rest = path.partition("/")
        if rest != "SHA256SUMS":
            files.setdefault(name, set()).add(rest)
    for name in files:
        check_sums(repository / name)
    assert files == {
        "preprocess": {"1/model.py", "1/pixels.py", "config.pbtxt"},
        "encoder_nano": onnx | {"1/model.onnx.data"},
        "head_mld": onnx | {"1/model.onnx.data"},
        "head_sigmoid": onnx | {"1/model.onnx.data"},
        "threshold_mld": {"1/model.onnx", "config.pbtxt"},
        "threshold_sigmoid": {"1/model.onnx", "config.pbtxt"},
        "mld": {"1/README", "config.pbtxt", "labels.txt"},
        "mld_bytes": {"1/README", "config.pbtxt", "labels.txt"},
        "sigmoid": {"1/README", "config.pbtxt", "labels.txt"},
        "sigmoid_bytes": {"1/README", "config.pbtxt", "labels.txt"},
        "heads_nano": {"1/README", "config.pbtxt"},
        "heads_nano_bytes": {"1/README", "config.pbtxt"},
    }
    assert all((repository / name / "1").is_dir() for name in files), "Triton wants a version folder of ensembles too"
    assert {model.name for model in report.models} == set(files)
    assert max(difference.value for difference in report.differences) <= 1e-4
    assert (repository / "mld" / "labels.txt").read_text() == "".join(f"{label}\n" for label in runs["mld"].labels)


def test_preprocessing_is_copied_verbatim(exported):
    repository, _, _ = exported
    for copy, module in (("model.py", preprocess_model), ("pixels.py", pixels)):
        with open(module.__file__, "rb") as source:
            expected = hashlib.sha256(source.read()).hexdigest()
        assert hashlib.sha256((repository / "preprocess" / "1" / copy).read_bytes()).hexdigest() == expected


def test_second_export_adds_to_the_first_and_repeats_change_nothing(encoder, make_run, tmp_path):
    run = make_run(encoder)
    export_runs({"one": run}, tmp_path, encoders=[encoder])
    both = export_runs({"two": make_run(encoder, seed=1)}, tmp_path, encoders=[encoder])
    combined = read(tmp_path, "heads_nano")
    assert json.loads(combined.parameters["heads"].string_value) == ["one", "two"]
    assert {output.name for output in combined.output} >= {"one_scores", "two_scores", "embedding_out"}
    assert versions(both)["heads_nano"] == 2
    assert changed(both) == {"head_two", "threshold_two", "two", "two_bytes", "heads_nano", "heads_nano_bytes"}

    before = tree(tmp_path)
    assert changed(export_runs({"one": run}, tmp_path, encoders=[encoder])) == set()
    assert tree(tmp_path) == before

    other = make_run(encoder)
    other.thresholds[:] = np.float32(0.9)
    moved = export_runs({"one": other}, tmp_path, encoders=[encoder])
    assert changed(moved) == {"threshold_one", "one", "one_bytes", "heads_nano", "heads_nano_bytes"}
    assert versions(moved)["two"] == 1
    assert versions(moved)["heads_nano"] == 3


def test_fast_decoding_is_the_same_for_server_and_client(encoder, make_run, tmp_path):
    fast = load_encoder(encoder.name, decode="fast")
    export_runs({"one": make_run(encoder), "two": make_run(fast)}, tmp_path)
    for head, given, model in (("one", encoder, "preprocess"), ("two", fast, "preprocess_32_squash_bicubic_0_fast")):
        config = read(tmp_path, f"{head}_bytes")
        assert config.ensemble_scheduling.step[0].model_name == model
        specs = tuple(pixels.PixelSpec.of(parameters_of(each)) for each in (config, read(tmp_path, model)))
        assert specs == (given.spec, given.spec) == (read_facts(tmp_path).encoders[given.tag].spec,) * 2


def test_encoders_with_other_pixels_have_their_own_models(encoder, make_encoder, make_run, tmp_path):
    wide = make_encoder("wide", resize_mode="shortest")
    export_runs({"one": make_run(encoder)}, tmp_path, encoders=[encoder])
    export_runs({"two": make_run(wide)}, tmp_path, encoders=[wide])
    models = set(read_configs(tmp_path))
    assert models >= {"preprocess", "preprocess_32_shortest_bicubic_0", "heads_nano", "heads_wide"}
    steps = read(tmp_path, "two_bytes").ensemble_scheduling.step
    assert steps[0].model_name == "preprocess_32_shortest_bicubic_0"

    moved = export_runs({"one": make_run(wide)}, tmp_path, encoders=[wide])
    assert set(moved.removed) == {
        "encoder_nano",
        "heads_nano",
        "heads_nano_bytes",
        "preprocess_32_shortest_bicubic_0",
    }
    assert set(read_facts(tmp_path).encoders) == {"wide"}
    assert read(tmp_path, "preprocess").parameters["resize_mode"].string_value == "shortest"


def test_accelerator_becomes_the_default(encoder, make_run, tmp_path):
    options = ExportOptions(accelerator="tensorrt", configs=ConfigOptions(max_batch=16, fp16=True))
    export_runs({"one": make_run(encoder)}, tmp_path, options, encoders=[encoder])
    folder = tmp_path / "encoder_nano"
    assert (folder / "config.pbtxt").read_bytes() == (folder / "configs" / "tensorrt.pbtxt").read_bytes()
    assert '"FP16"' in (folder / "config.pbtxt").read_text()
    assert {config.max_batch_size for config in read_configs(tmp_path).values()} == {16}


def test_encoder_graph_of_an_earlier_export_is_used_again(encoder, make_run, tmp_path, monkeypatch):
    first = export_runs({"one": make_run(encoder)}, tmp_path, encoders=[encoder])
    monkeypatch.setattr(build, "write_encoder", lambda encoder, folder: pytest.fail("traced again"))
    second = export_runs({"two": make_run(encoder, seed=1)}, tmp_path, encoders=[encoder])
    assert versions(second)["encoder_nano"] == versions(first)["encoder_nano"] == 1
    assert {d.output for d in second.differences if d.model == "encoder_nano"} >= {"embedding", "tokens"}


def test_broken_graph_of_an_earlier_export_is_made_anew(encoder, make_run, tmp_path):
    export_runs({"one": make_run(encoder)}, tmp_path, encoders=[encoder])
    graph = tmp_path / "encoder_nano" / "1" / "model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:100])
    again = export_runs({"one": make_run(encoder)}, tmp_path, encoders=[encoder])
    assert versions(again)["encoder_nano"] == 2
    assert (tmp_path / "encoder_nano" / "2" / "model.onnx").read_bytes() == whole
