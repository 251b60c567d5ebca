"""Small encoders with random weights, and heads on them: graphs of the real kinds that export within seconds."""

import hashlib
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from mlclip_export import build, export_runs, graphs, text_graph

from mlclip.checkpoint import EncoderRef, Run
from mlclip.encoders.clip import load_encoder
from mlclip.encoders.folder import save
from mlclip.heads import FeatureShapes, build_head

VISION = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 1, "layers": 1}


def write_encoder_folder(folder, vision, *, text=TEXT, seed=0, size=32, embed_dim=16, **preprocess):
    model_config = {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text}
    preprocess_config = {"size": size, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", **preprocess}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.model.CLIP(**model_config)
    save(model, {"model_cfg": model_config, "preprocess_cfg": {"resize_mode": "squash", **preprocess_config}}, folder)
    return folder


@pytest.fixture(scope="session")
def make_encoder(tmp_path_factory):
    """Make a loaded encoder; its tag is `name`."""

    def make(name, vision=None, **options):
        folder = tmp_path_factory.mktemp("encoder") / name
        return load_encoder(str(write_encoder_folder(folder, VISION if vision is None else vision, **options)))

    return make


@pytest.fixture(scope="session")
def encoder(make_encoder):
    return make_encoder("nano")


@pytest.fixture(scope="session")
def make_run():
    """Make a run in memory: a head with random weights on an encoder."""

    def make(encoder, head="sigmoid", classes=7, *, seed=0, labels=None, **options):
        shapes = FeatureShapes(encoder.embedding_width, encoder.token_count, encoder.token_width)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = build_head(head, classes, shapes, **options)
        labels = labels or tuple(f"label {n}" for n in range(classes))
        thresholds = np.linspace(0.3, 0.7, classes, dtype=np.float32)
        return Run(module.eval(), tuple(labels), thresholds, EncoderRef.of(encoder))

    return make


@contextmanager
def tracing_once(traced):
    """Let exports trace each set of weights once per session, since it takes seconds; tests of graphs trace always."""

    def once(write):
        def write_once(weights, *rest):
            *arguments, folder = rest
            model = weights.model if write is text_graph.write_text_encoder else weights
            shapes = [tensor.shape for given in arguments for tensor in given]
            digest = hashlib.sha256(f"{write} {type(model)} {shapes}".encode())
            for key, value in sorted(model.state_dict().items()):
                digest.update(key.encode() + value.numpy().tobytes())
            kept = traced / digest.hexdigest()
            if not kept.exists():
                write(weights, *arguments, folder)
                shutil.copytree(folder, kept)
            else:
                shutil.copytree(kept, folder, dirs_exist_ok=True)

        return write_once

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((graphs, "write_encoder"), (graphs, "write_head"), (text_graph, "write_text_encoder")):
            patch.setattr(build, name, once(getattr(module, name)))
        yield


@pytest.fixture(scope="session")
def traced(tmp_path_factory):
    return tmp_path_factory.mktemp("traced")


@pytest.fixture(scope="module", autouse=True)
def _traced_once(traced):
    with tracing_once(traced):
        yield


class Backend:
    """What Python models use of triton_python_backend_utils."""

    TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1

    class TritonError(str):
        CANCELLED, UNAVAILABLE = "cancelled", "unavailable"

        def __new__(cls, message, code=None):
            return super().__new__(cls, message)

    class Tensor:
        def __init__(self, name, value):
            self.name, self.value = name, value

        def as_numpy(self):
            return self.value

    class InferenceResponse:
        def __init__(self, output_tensors=(), error=None):
            self.tensors, self.error = output_tensors, error

    @staticmethod
    def get_input_tensor_by_name(request, name):
        return request.get(name)


@pytest.fixture(scope="session")
def exported(encoder, make_run, traced, tmp_path_factory):
    """Give a repository with both heads on one encoder, the report, and the runs: nobody may change it."""
    runs = {"mld": make_run(encoder, "mld", 46, hidden=64), "sigmoid": make_run(encoder, "sigmoid", 7)}
    repository = tmp_path_factory.mktemp("exported") / "model_repository"
    with tracing_once(traced):
        return repository, export_runs(runs, repository, encoders=[encoder]), runs


@pytest.fixture(scope="session")
def golden():
    return Path(__file__).parent / "golden"
