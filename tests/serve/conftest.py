"""A small model repository, built by hand, and one real server on it for the whole session."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from mlclip_serve import Server
from onnx import TensorProto, helper, numpy_helper

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

Field = tuple[str, str, Sequence[int]]
"""Name, Triton data type without TYPE_, dims without the batch axis."""

_ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
}
PIXELS: Field = ("pixels", "UINT8", (SIZE, SIZE, 3))
EMBEDDING: Field = ("embedding", "FP32", (WIDTH,))
EMBEDDING_OUT: Field = ("embedding_out", "FP32", (WIDTH,))
LOGITS: Field = ("logits", "FP32", (CLASSES,))
SCORES: Field = ("scores", "FP32", (CLASSES,))
SELECTED: Field = ("selected", "BOOL", (CLASSES,))
IMAGE: Field = ("image", "STRING", (1,))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def write_config(
    folder: Path, inputs: Sequence[Field], outputs: Sequence[Field], backend: str = "onnxruntime", extra: str = ""
) -> Path:
    """Write <folder>/config.pbtxt and make <folder>/1/."""
    lines = [f'name: "{folder.name}"', "max_batch_size: 32"]
    lines.append('platform: "ensemble"' if backend == "ensemble" else f'backend: "{backend}"')
    for kind, fields in (("input", inputs), ("output", outputs)):
        for name, data_type, dims in fields:
            lines.append(f'{kind} {{ name: "{name}" data_type: TYPE_{data_type} dims: {list(dims)} }}')
    if backend != "ensemble":
        lines.append("instance_group { count: 1 kind: KIND_CPU }")
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text("\n".join([*lines, extra]) + "\n")
    return folder


def write_onnx(
    folder: Path,
    inputs: Sequence[Field],
    outputs: Sequence[Field],
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    extra: str = "",
    external: bool = False,
) -> Path:
    """Write a whole ONNX model: config and <folder>/1/model.onnx; returns the latter."""
    write_config(folder, inputs, outputs, extra=extra)

    def infos(fields: Sequence[Field]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, _ONNX_TYPES[kind], ["B", *dims]) for name, kind, dims in fields]

    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, folder.name, infos(inputs), infos(outputs), weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    path = folder / "1" / "model.onnx"
    onnx.save(model, path, save_as_external_data=external, location="model.onnx.data", size_threshold=0)
    return path


def write_encoder(folder: Path, extra: str = "") -> Path:
    """pixels -> embedding and a copy of it; the weights lie in a file of their own."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
        helper.make_node("Identity", ["embedding"], ["embedding_out"]),
    ]
    constants = {"weight": random(SIZE * SIZE * 3, WIDTH) / 1000}
    return write_onnx(folder, [PIXELS], [EMBEDDING, EMBEDDING_OUT], nodes, constants, extra, external=True)


def write_ensemble(
    folder: Path, inputs: Sequence[Field], outputs: Sequence[Field], steps: Mapping[str, Sequence[str]]
) -> None:
    """Chain models whose tensors carry one name everywhere: model name -> its inputs, '->', its outputs."""
    lines = []
    for model, tensors in steps.items():
        cut = list(tensors).index("->")
        maps = [f'input_map {{ key: "{name}" value: "{name}" }}' for name in tensors[:cut]]
        maps += [f'output_map {{ key: "{name}" value: "{name}" }}' for name in tensors[cut + 1 :]]
        lines.append(f'step {{ model_name: "{model}" model_version: -1 {" ".join(maps)} }}')
    write_config(folder, inputs, outputs, "ensemble", f"ensemble_scheduling {{ {' '.join(lines)} }}")


def write_picky(folder: Path, extra: str = "") -> Path:
    """`index` INT64 [1]: `same` repeats it, `picked` is row `index` of a table of 3 and fails on any other."""
    nodes = [
        helper.make_node("Identity", ["index"], ["same"]),
        helper.make_node("Squeeze", ["index", "axis"], ["flat"]),
        helper.make_node("Gather", ["table", "flat"], ["picked"]),
    ]
    outputs = [("same", "INT64", (1,)), ("picked", "FP32", (2,))]
    return write_onnx(
        folder, [("index", "INT64", (1,))], outputs, nodes, {"table": random(3, 2), "axis": np.array([1])}, extra
    )


def write_types(folder: Path) -> None:
    """Every supported data type through an Identity, with an axis of free length."""
    types = ["BOOL", "FP16", "FP32", "INT32", "INT64", "UINT8"]
    inputs = [(f"in_{kind}", kind, (-1,)) for kind in types]
    outputs = [(f"out_{kind}", kind, (-1,)) for kind in types]
    write_config(folder, inputs, outputs)
    infos = [
        [helper.make_tensor_value_info(name, _ONNX_TYPES[kind], ["B", name]) for name, kind, _ in fields]
        for fields in (inputs, outputs)
    ]
    nodes = [helper.make_node("Identity", [f"in_{kind}"], [f"out_{kind}"]) for kind in types]
    graph = helper.make_graph(nodes, folder.name, *infos)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "1" / "model.onnx")


def write_repository(root: Path) -> Path:
    """Encoder, head, threshold, preprocess, two ensembles, and models for single questions."""
    joined = "dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 5000000 }"
    accelerated = 'optimization { execution_accelerators { gpu_execution_accelerator: [ { name: "tensorrt" } ] } }'
    threads = 'parameters { key: "intra_op_thread_count" value { string_value: "1" } }'
    write_encoder(root / "encoder", f"{accelerated} {threads}")
    head = [helper.make_node("MatMul", ["embedding", "weight"], ["logits"])]
    write_onnx(root / "head", [EMBEDDING], [LOGITS], head, {"weight": random(WIDTH, CLASSES, seed=1)})
    threshold = [
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("GreaterOrEqual", ["scores", "limit"], ["selected"]),
    ]
    write_onnx(root / "threshold", [LOGITS], [SCORES, SELECTED], threshold, {"limit": np.float32(0.5)})
    preprocess = write_config(root / "preprocess", [IMAGE], [PIXELS], "python")
    (preprocess / "1" / "model.py").write_text(PREPROCESS)
    steps = {
        "encoder": ["pixels", "->", "embedding", "embedding_out"],
        "head": ["embedding", "->", "logits"],
        "threshold": ["logits", "->", "scores", "selected"],
    }
    outputs = [SCORES, SELECTED, EMBEDDING_OUT]
    write_ensemble(root / "demo", [PIXELS], outputs, steps)
    write_ensemble(root / "demo_bytes", [IMAGE], outputs, {"preprocess": ["image", "->", "pixels"], **steps})
    write_picky(root / "picky")
    write_picky(root / "joined", joined)
    write_types(root / "types")
    return root


@pytest.fixture(autouse=True)
def keep_logs(temporary_folder: None) -> None:
    """Many servers fail here."""


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    with Server(repository, ready_timeout=600) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc_url) as connected:
        yield connected


@pytest.fixture
def tiny_repository(tmp_path: Path) -> Path:
    """One model and one ensemble: for tests that need a server of their own."""
    root = tmp_path / "models"
    write_encoder(root / "encoder")
    write_ensemble(root / "demo", [PIXELS], [EMBEDDING_OUT], {"encoder": ["pixels", "->", "embedding_out"]})
    return root


def await_end(pid: int) -> bool:
    """Wait for the end of a process, which may be no child of ours; False if it goes on."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], DEADLINE)[0])
    finally:
        os.close(handle)


def members(group: int) -> list[int]:
    """The processes of a process group that are alive."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            if int(fields[2]) == group and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


def hang_models(server: int) -> None:
    """Stop the processes of a server's models, as if they hung: they will not notice that the server is gone."""
    for process in set(members(server)) - {server}:
        os.kill(process, signal.SIGSTOP)


def tensor(name: str, value: np.ndarray, data_type: str) -> triton.InferInput:
    made = triton.InferInput(name, list(value.shape), data_type)
    made.set_data_from_numpy(value)
    return made
