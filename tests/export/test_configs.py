"""Configs are what Triton's schema, the contract and the golden files say.

Where a change of the configs is meant, `MLCLIP_WRITE_GOLDEN=1 pytest tests/export/test_configs.py` writes the
golden files anew; look at the difference before it is committed.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from mlclip_client.pixels import PixelSpec
from mlclip_client.server.catalog import choose_heads, plan_routes, read_catalog
from mlclip_export import ConfigOptions, configs
from mlclip_export.configs import (
    encoder_config,
    head_config,
    preprocess_config,
    text_encoder_config,
    threshold_config,
    to_text,
    tokenize_config,
)
from mlclip_export.ensembles import FirstSteps, combined_config, ensemble_config
from mlclip_export.facts import EncoderFacts, HeadFacts, TextFacts, read_facts
from mlclip_export.gpu_variants import Stamp, stamped
from tritonclient.grpc import model_config_pb2 as pb

SPEC = PixelSpec(32, "bicubic", "squash")
TEXT = TextFacts("fedcba9876543210", 8, 32)
ENCODER = EncoderFacts("nano", "0123456789abcdef", SPEC, 16, 5, 64, max_batch=8, text=TEXT)
MLD = HeadFacts("mld", "nano", ("tokens",), ("cat", "Krähe", 'a "dog"'), (0.5, 0.25, 0.1), max_batch=8)
SIGMOID = HeadFacts("sigmoid", "nano", ("embedding",), ("tree",), (0.75,), max_batch=4)
FUSION = HeadFacts("fusion", "nano", ("embedding", "text_embedding"), ("tree",), (0.75,), max_batch=8)
TRUSTED = replace(
    MLD, name="trusted", calibrated=True, novelty=True, promise='{"figure": "recall"}', validation='{"images": 9}'
)
FIRST = FirstSteps("preprocess", "tokenize")
OPTIONS = ConfigOptions(max_batch=8)
STAMP = Stamp(3, "89abcdef")

# Keys that Triton's onnxruntime backend knows for its TensorRT accelerator (its README, parameter mapping).
TENSORRT_KEYS = {
    "precision_mode",
    "max_workspace_size_bytes",
    "trt_engine_cache_enable",
    "trt_engine_cache_path",
    "trt_timing_cache_enable",
    "trt_timing_cache_path",
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_profile_max_shapes",
    "trt_layer_norm_fp32_fallback",
}


def all_configs():
    fp16 = ConfigOptions(max_batch=8, fp16=True)
    return {
        "preprocess": preprocess_config("preprocess", SPEC, 8, OPTIONS),
        "encoder_cpu": encoder_config(ENCODER, OPTIONS, "cpu"),
        "encoder_cuda": encoder_config(ENCODER, OPTIONS, "cuda"),
        "encoder_tensorrt": encoder_config(ENCODER, OPTIONS, "tensorrt"),
        "encoder_plan": encoder_config(ENCODER, OPTIONS, "plan"),
        "head_cpu": head_config(MLD, ENCODER, OPTIONS, "cpu"),
        "head_tensorrt_fp16": head_config(MLD, ENCODER, fp16, "tensorrt"),
        "threshold": threshold_config(MLD, ENCODER),
        "threshold_novelty": threshold_config(TRUSTED, ENCODER),
        "combined_novelty": combined_config([MLD, TRUSTED], ENCODER, FIRST, "pixels"),
        "ensemble_trusted": ensemble_config(TRUSTED, ENCODER, FIRST, "pixels"),
        "ensemble": ensemble_config(MLD, ENCODER, FIRST, "pixels"),
        "ensemble_bytes": ensemble_config(MLD, ENCODER, FIRST, "bytes"),
        "ensemble_text_bytes": ensemble_config(FUSION, ENCODER, FIRST, "bytes"),
        "tokenize": tokenize_config("tokenize", 8, 8),
        "text_encoder_cuda": text_encoder_config(ENCODER, OPTIONS, "cuda"),
        "combined": combined_config([MLD, SIGMOID], ENCODER, FIRST, "pixels"),
        "combined_bytes": combined_config([MLD, SIGMOID], ENCODER, FIRST, "bytes"),
    }


@pytest.fixture(autouse=True)
def _a_fixed_version(monkeypatch):
    monkeypatch.setattr(configs, "version", lambda package: "1.2.3")
    monkeypatch.setattr(configs, "EXPORTER", "the exporter")


@pytest.mark.parametrize("name", all_configs())
def test_config_equals_its_golden_file(name, golden):
    text = to_text(stamped(all_configs()[name], STAMP))
    if os.environ.get("MLCLIP_WRITE_GOLDEN"):
        (golden / f"{name}.pbtxt").write_text(text, encoding="utf-8")
    assert text == (golden / f"{name}.pbtxt").read_text(encoding="utf-8")


def test_every_written_config_parses_as_model_config(exported):
    repository, _, _ = exported
    files = sorted(repository.rglob("*.pbtxt"))
    assert len(files) == 12 + 3 * 3
    for file in files:
        config = text_format.Parse(file.read_text(encoding="utf-8"), pb.ModelConfig())
        assert config.name == file.relative_to(repository).parts[0]
        assert config.max_batch_size > 0
        assert not config.response_cache.enable


def test_only_ensembles_are_without_dynamic_batching():
    for config in all_configs().values():
        assert config.HasField("dynamic_batching") != config.HasField("ensemble_scheduling"), config.name


def test_onnx_variants_take_a_gpu_only_where_there_is_one():
    for variant in ("cuda", "tensorrt"):
        for config in (
            encoder_config(ENCODER, OPTIONS, variant),
            head_config(MLD, ENCODER, OPTIONS, variant),
        ):
            assert [group.kind for group in config.instance_group] == [pb.ModelInstanceGroup.KIND_AUTO]


def test_tensorrt_parameters_are_ones_the_backend_knows():
    config = encoder_config(ENCODER, ConfigOptions(fp16=True), "tensorrt")
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert set(accelerator.parameters) == TENSORRT_KEYS
    assert accelerator.parameters["precision_mode"] == "FP16"


def test_engines_of_other_content_are_never_found():
    """The path holds model, version and digest, and one new folder only, since the backend makes no parents."""

    def path(config):
        accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
        return Path(accelerators[0].parameters["trt_engine_cache_path"])

    cached = [
        path(stamped(encoder_config(ENCODER, OPTIONS, "tensorrt"), stamp))
        for stamp in (Stamp(1, "aaaaaaaa"), Stamp(2, "aaaaaaaa"), Stamp(1, "bbbbbbbb"))
    ]
    cached.append(path(stamped(head_config(MLD, ENCODER, OPTIONS, "tensorrt"), Stamp(1, "aaaaaaaa"))))
    assert len(set(cached)) == 4
    assert {folder.parent for folder in cached} == {Path("/engines")}


def test_no_tensor_feeds_a_step_and_leaves_the_ensemble():
    """Triton 2.51 stops such a request with "unexpected deadlock" unless it asks for every output."""
    for config in all_configs().values():
        outputs = {output.name for output in config.output}
        for step in config.ensemble_scheduling.step:
            assert not outputs & set(step.input_map.values()), config.name


def test_ensemble_takes_no_larger_batch_than_its_steps():
    config = combined_config([MLD, SIGMOID], ENCODER, FIRST, "pixels")
    assert config.max_batch_size == SIGMOID.max_batch


def test_client_reads_the_ensembles(exported):
    repository, _, runs = exported
    read = [
        ("1", text_format.Parse(file.read_text(encoding="utf-8"), pb.ModelConfig()))
        for file in sorted(repository.glob("*/config.pbtxt"))
    ]
    catalog = read_catalog(read)
    assert set(catalog.heads) == {"mld", "sigmoid"}
    for name, head in catalog.heads.items():
        assert head.labels == runs[name].labels
        assert head.spec == runs[name].encoder.spec
        assert [t == float(str(wanted)) for t, wanted in zip(head.thresholds, runs[name].thresholds, strict=True)]
    (route,) = plan_routes(catalog, choose_heads(catalog, ["mld", "sigmoid"]), "bytes")
    assert route.ensemble.model == "heads_nano_bytes"


def test_facts_are_read_back_as_they_were(exported, encoder):
    repository, _, runs = exported
    facts = read_facts(repository)
    assert facts.preprocess == encoder.spec
    assert facts.encoders["nano"].fingerprint == encoder.fingerprint
    assert (facts.encoders["nano"].token_count, facts.encoders["nano"].token_width) == (5, 64)
    for name, run in runs.items():
        assert facts.heads[name].labels == run.labels
        assert facts.heads[name].thresholds == tuple(float(str(t)) for t in run.thresholds)
        assert facts.heads[name].inputs == run.head.inputs
