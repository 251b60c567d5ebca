"""A small model repository, built by hand, and one real server on it for the whole session."""

import contextlib
import os
import select
import signal
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from mlclip_serve import Server
from tritonclient.grpc import model_config_pb2 as pb

from ..models import same, write_config, write_ensemble, write_onnx

SIZE, WIDTH, CLASSES = 4, 5, 7
DEADLINE = 60.0
"""Seconds for any one request: a server that hangs fails the test instead of the run."""

PREPROCESS = """
import io

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        data = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        try:
            picture = Image.open(io.BytesIO(data.ravel()[0])).convert("RGB").resize((4, 4))
        except Exception as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"bad image: {error}"))
        return pb_utils.InferenceResponse([pb_utils.Tensor("pixels", np.asarray(picture)[None])])
"""

PIXELS = ("pixels", pb.TYPE_UINT8, (SIZE, SIZE, 3))
EMBEDDING_OUT = ("embedding_out", pb.TYPE_FP32, (WIDTH,))
SCORES = ("scores", pb.TYPE_FP32, (CLASSES,))
SELECTED = ("selected", pb.TYPE_BOOL, (CLASSES,))
IMAGE = ("image", pb.TYPE_STRING, (1,))
ENCODER = f"""
(uint8[B, {SIZE}, {SIZE}, 3] pixels) => (float[B, {WIDTH}] embedding, float[B, {WIDTH}] embedding_out) {{
    floats = Cast<to = 1>(pixels)
    flat = Flatten(floats)
    embedding = MatMul(flat, weight)
    embedding_out = Identity(embedding)
}}"""
HEAD = f"(float[B, {WIDTH}] embedding) => (float[B, {CLASSES}] logits) {{ logits = MatMul(embedding, weight) }}"
THRESHOLD = f"""
(float[B, {CLASSES}] logits) => (float[B, {CLASSES}] scores, bool[B, {CLASSES}] selected) {{
    scores = Sigmoid(logits)
    selected = GreaterOrEqual(scores, limit)
}}"""
PICKY = """
(int64[B, 1] index) => (int64[B, 1] same, float[B, 2] picked) {
    same = Identity(index)
    flat = Squeeze(index, axis)
    picked = Gather(table, flat)
}"""


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def write_encoder(folder, **fields):
    """pixels -> embedding and a copy of it; the weights lie in a file of their own."""
    return write_onnx(folder, ENCODER, {"weight": random(SIZE * SIZE * 3, WIDTH) / 1000}, external=True, **fields)


def write_picky(folder, **fields):
    """`index` INT64 [1]: `same` repeats it, `picked` is row `index` of a table of 3 and fails on any other."""
    return write_onnx(folder, PICKY, {"table": random(3, 2), "axis": np.array([1])}, **fields)


def write_types(folder):
    """Every supported data type through an Identity, with an axis of free length."""
    types = {"BOOL": "bool", "FP16": "float16", "FP32": "float", "INT32": "int32", "INT64": "int64", "UINT8": "uint8"}
    inputs, outputs = (
        ", ".join(f"{type_}[B, {side}_{kind}_length] {side}_{kind}" for kind, type_ in types.items())
        for side in ("in", "out")
    )
    nodes = " ".join(f"out_{kind} = Identity(in_{kind})" for kind in types)
    write_onnx(folder, f"({inputs}) => ({outputs}) {{ {nodes} }}")


def write_repository(root):
    """Encoder, head, threshold, preprocess, two ensembles, and models for single questions."""
    write_encoder(root / "encoder", parameters={"intra_op_thread_count": "1"})
    write_onnx(root / "head", HEAD, {"weight": random(WIDTH, CLASSES, seed=1)})
    write_onnx(root / "threshold", THRESHOLD, {"limit": np.float32(0.5)})
    preprocess = write_config(root / "preprocess", [IMAGE], [PIXELS], backend="python")
    (preprocess / "1" / "model.py").write_text(PREPROCESS)
    steps = [
        ("encoder", same("pixels"), same("embedding", "embedding_out")),
        ("head", same("embedding"), same("logits")),
        ("threshold", same("logits"), same("scores", "selected")),
    ]
    outputs = [SCORES, SELECTED, EMBEDDING_OUT]
    write_ensemble(root / "demo", [PIXELS], outputs, steps)
    write_ensemble(root / "demo_bytes", [IMAGE], outputs, [("preprocess", same("image"), same("pixels")), *steps])
    write_picky(root / "picky")
    waiting = pb.ModelDynamicBatching(preferred_batch_size=[4], max_queue_delay_microseconds=5_000_000)
    write_picky(root / "joined", dynamic_batching=waiting)
    write_types(root / "types")
    accelerated = pb.ModelOptimizationPolicy()
    accelerated.execution_accelerators.cpu_execution_accelerator.add(name="openvino")
    write_encoder(root / "accelerated", optimization=accelerated)
    return root


@pytest.fixture(autouse=True)
def keep_logs(temporary_folder):
    """Many servers fail here."""


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def server(repository):
    with Server(repository, ready_timeout=600) as running:
        yield running


@pytest.fixture(scope="session")
def client(server):
    with triton.InferenceServerClient(server.grpc_url) as connected:
        yield connected


@pytest.fixture
def tiny_repository(tmp_path):
    """One model and one ensemble, and folders that are no models: for tests that need a server of their own."""
    root = tmp_path / "models"
    for folder in (".git/objects", ".mlclip-export-x/encoder", ".ipynb_checkpoints", "lost+found", "notes"):
        (root / folder).mkdir(parents=True)
    write_config(root / ".old", [PIXELS], [EMBEDDING_OUT], backend="nothing")
    write_encoder(root / "encoder")
    write_ensemble(root / "demo", [PIXELS], [EMBEDDING_OUT], [("encoder", same("pixels"), same("embedding_out"))])
    return root


def await_end(pid):
    """Wait for the end of a process, which may be no child of ours; False if it goes on."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], DEADLINE)[0])
    finally:
        os.close(handle)


def members(group):
    """The processes of a process group that are alive."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            if int(fields[2]) == group and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


def hang_models(server):
    """Stop the processes of a server's models, as if they hung: they will not notice that the server is gone."""
    for process in set(members(server)) - {server}:
        os.kill(process, signal.SIGSTOP)


def tensor(name, value, data_type):
    made = triton.InferInput(name, list(value.shape), data_type)
    made.set_data_from_numpy(value)
    return made
