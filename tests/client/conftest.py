"""A small model repository after the contract, made by hand, and the real server on it."""

import contextlib
import hashlib
import io
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mlclip_client.pixels
import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from mlclip_client.cli import app
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tritonclient.grpc import model_config_pb2 as pb
from typer.testing import CliRunner

SIZE = 8
LABELS = {
    "color": ("red", "green", "blue", "bright"),
    "grid": tuple(f"cell {index:02}" for index in range(40)),
}
FEATURES = {"color": "embedding", "grid": "tokens"}
SPEC = mlclip_client.pixels.PixelSpec(SIZE, "bicubic", "shortest", 0)

PREPROCESS = """
import json, pathlib, sys
import numpy as np
import triton_python_backend_utils as pb_utils
sys.path.insert(0, str(pathlib.Path(__file__).parent))
from pixels import ImageError, PixelSpec, to_pixels

class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.spec = PixelSpec(int(parameters["image_size"]["string_value"]))

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        data = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)[0]
        if data.startswith(b"gate "):
            gate = pathlib.Path(data[5:].decode())
            (gate / "entered").write_bytes(b"!")
            with (gate / "go").open("rb", buffering=0) as go:
                go.read(1)
        try:
            pixels = to_pixels(data, self.spec)[None]
        except ImageError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"bad image: {error}"))
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("pixels", pixels)])
"""


@dataclass(frozen=True)
class Weights:
    """What one head computes: sigmoid(features @ matrix + bias) against thresholds."""

    matrix: np.ndarray
    bias: np.ndarray
    thresholds: np.ndarray


def make_weights(name):
    draw = np.random.default_rng(len(name))
    count, width = len(LABELS[name]), {"embedding": 3, "tokens": SIZE * SIZE * 3}[FEATURES[name]]
    matrix = draw.normal(0, 6 / np.sqrt(width), (width, count)).astype(np.float32)
    if name == "color":
        matrix = np.float32([[9, -3, -3, 4], [-3, 9, -3, 4], [-3, -3, 9, 4]])
    bias = np.full(count, -4 if name == "color" else 0, np.float32)
    return Weights(matrix, bias, draw.uniform(0.4, 0.6, count).astype(np.float32))


WEIGHTS = {name: make_weights(name) for name in LABELS}


def expected_scores(pixels, head):
    """Compute with numpy what the server must answer for uint8 [S, S, 3]: float32 [N]."""
    values = pixels.astype(np.float32) / 255
    features = values.mean(axis=(0, 1)) if FEATURES[head] == "embedding" else values.reshape(-1)
    weights = WEIGHTS[head]
    return 1 / (1 + np.exp(-(features @ weights.matrix + weights.bias)))


def value(name, type_, *dims):
    return helper.make_tensor_value_info(name, type_, ["batch", *dims])


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def write_onnx(path, nodes, inputs, outputs, constants):
    graph = helper.make_graph(nodes, path.parent.parent.name, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True)
    onnx.save(model, path)


def encoder_onnx(path):
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "full"], ["unit"]),
        helper.make_node("ReduceMean", ["unit", "axes"], ["embedding"], keepdims=0),
        helper.make_node("Identity", ["embedding"], ["embedding_out"]),
        helper.make_node("Reshape", ["unit", "shape"], ["tokens"]),
    ]
    floats = [("embedding", (3,)), ("tokens", (SIZE * SIZE, 3)), ("embedding_out", (3,))]
    constants = [
        constant("full", np.float32(255)),
        constant("axes", np.int64([1, 2])),
        constant("shape", np.int64([0, SIZE * SIZE, 3])),
    ]
    inputs = [value("pixels", TensorProto.UINT8, SIZE, SIZE, 3)]
    write_onnx(path, nodes, inputs, [value(name, TensorProto.FLOAT, *dims) for name, dims in floats], constants)


def head_onnx(path, name):
    weights, feature = WEIGHTS[name], FEATURES[name]
    dims = (3,) if feature == "embedding" else (SIZE * SIZE, 3)
    nodes = [
        helper.make_node("Flatten", [feature], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix", "bias"], ["logits"]),
    ]
    write_onnx(
        path,
        nodes,
        [value(feature, TensorProto.FLOAT, *dims)],
        [value("logits", TensorProto.FLOAT, len(LABELS[name]))],
        [constant("matrix", weights.matrix), constant("bias", weights.bias)],
    )


def threshold_onnx(path, name):
    count = len(LABELS[name])
    top = min(count, 32)
    nodes = [
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("GreaterOrEqual", ["scores", "thresholds"], ["selected"]),
        helper.make_node("TopK", ["scores", "k"], ["top_score", "order"]),
        helper.make_node("Cast", ["order"], ["top_index"], to=TensorProto.INT32),
    ]
    outputs = [
        value("scores", TensorProto.FLOAT, count),
        value("selected", TensorProto.BOOL, count),
        value("top_index", TensorProto.INT32, top),
        value("top_score", TensorProto.FLOAT, top),
    ]
    constants = [constant("thresholds", WEIGHTS[name].thresholds), constant("k", np.int64([top]))]
    write_onnx(path, nodes, [value("logits", TensorProto.FLOAT, count)], outputs, constants)


IMAGE = ("image", pb.TYPE_STRING, [1])
PIXELS = ("pixels", pb.TYPE_UINT8, [SIZE, SIZE, 3])
EMBEDDING_OUT = ("embedding_out", pb.TYPE_FP32, [3])
ENCODED = [("embedding", pb.TYPE_FP32, [3]), ("tokens", pb.TYPE_FP32, [SIZE * SIZE, 3]), EMBEDDING_OUT]


def threshold_outputs(name):
    count = len(LABELS[name])
    top = min(count, 32)
    return [
        ("scores", pb.TYPE_FP32, [count]),
        ("selected", pb.TYPE_BOOL, [count]),
        ("top_index", pb.TYPE_INT32, [top]),
        ("top_score", pb.TYPE_FP32, [top]),
    ]


def write_config(root, name, inputs, outputs, parameters=None, **fields):
    config = pb.ModelConfig(name=name, max_batch_size=8, **fields)
    for target, tensors in ((config.input, inputs), (config.output, outputs)):
        for tensor, type_, dims in tensors:
            target.add(name=tensor, data_type=type_, dims=dims)
    for key, text in (parameters or {}).items():
        config.parameters[key].string_value = text
    (root / name / "1").mkdir(parents=True, exist_ok=True)
    (root / name / "config.pbtxt").write_text(text_format.MessageToString(config, as_utf8=True))


def encoder_facts():
    return {
        "encoder": "tiny",
        "image_size": str(SPEC.size),
        "interpolation": SPEC.interpolation,
        "resize_mode": SPEC.resize_mode,
        "fill": str(SPEC.fill),
        "mlclip_version": "0.1.0",
    }


def head_facts(name):
    labels = LABELS[name]
    return encoder_facts() | {
        "mlclip_kind": "ensemble",
        "head": name,
        "labels": json.dumps(labels),
        "labels_sha256": hashlib.sha256("".join(f"{label}\n" for label in labels).encode()).hexdigest(),
        "thresholds": json.dumps([float(value) for value in WEIGHTS[name].thresholds]),
    }


def write_ensemble(root, name, heads, from_bytes, parameters):
    """Write an ensemble for some heads; a combined one prefixes its outputs with the head's name."""
    combined = parameters["mlclip_kind"] == "combined"
    scheduling = pb.ModelEnsembling()

    def step(model, inputs, outputs):
        scheduling.step.add(model_name=model, model_version=-1, input_map=inputs, output_map=outputs)

    if from_bytes:
        step("preprocess", {"image": "image"}, {"pixels": "pixels"})
    used = sorted({FEATURES[head] for head in heads} | {"embedding_out"})
    step("encoder_tiny", {"pixels": "pixels"}, {tensor: tensor for tensor in used})
    outputs = [EMBEDDING_OUT]
    for head in heads:
        prefix = f"{head}_" if combined else ""
        step(f"head_{head}", {FEATURES[head]: FEATURES[head]}, {"logits": f"{head}_logits"})
        mapped = {tensor: prefix + tensor for tensor, _, _ in threshold_outputs(head)}
        step(f"threshold_{head}", {"logits": f"{head}_logits"}, mapped)
        outputs += [(prefix + tensor, type_, dims) for tensor, type_, dims in threshold_outputs(head)]
    inputs = [IMAGE if from_bytes else PIXELS]
    write_config(root, name, inputs, outputs, parameters, platform="ensemble", ensemble_scheduling=scheduling)


def write_repository(root):
    """Write the whole repository: two heads, one encoder, four models a head, two combined ensembles."""
    write_config(root, "preprocess", [IMAGE], [PIXELS], {"image_size": str(SIZE)}, backend="python")
    (root / "preprocess/1/model.py").write_text(PREPROCESS)
    shutil.copy(mlclip_client.pixels.__file__, root / "preprocess/1/pixels.py")
    onnx_model = {"backend": "onnxruntime", "dynamic_batching": pb.ModelDynamicBatching()}
    encoder_onnx(root / "encoder_tiny/1/model.onnx")
    write_config(root, "encoder_tiny", [PIXELS], ENCODED, **onnx_model)
    for head in LABELS:
        logits = ("logits", pb.TYPE_FP32, [len(LABELS[head])])
        feature = next(tensor for tensor in ENCODED if tensor[0] == FEATURES[head])
        head_onnx(root / f"head_{head}/1/model.onnx", head)
        write_config(root, f"head_{head}", [feature], [logits], **onnx_model)
        threshold_onnx(root / f"threshold_{head}/1/model.onnx", head)
        write_config(root, f"threshold_{head}", [logits], threshold_outputs(head), **onnx_model)
        for suffix in ("", "_bytes"):
            write_ensemble(root, head + suffix, [head], bool(suffix), head_facts(head))
    combined = encoder_facts() | {"mlclip_kind": "combined", "heads": json.dumps(list(LABELS))}
    for suffix in ("", "_bytes"):
        write_ensemble(root, f"heads_tiny{suffix}", list(LABELS), bool(suffix), combined)


@dataclass(frozen=True)
class Tiny:
    """What tests compare a server's answers with."""

    root: Path
    labels: dict[str, tuple[str, ...]]
    weights: dict[str, Weights]
    spec: mlclip_client.pixels.PixelSpec

    def scores(self, data, head):
        """Compute the scores of an image file, float32 [N]."""
        return expected_scores(mlclip_client.pixels.to_pixels(data, self.spec), head)

    def configs(self):
        """Give every model's configuration as a server would send it: name -> ModelConfig."""
        found = (text_format.Parse(path.read_text(), pb.ModelConfig()) for path in self.root.glob("*/config.pbtxt"))
        return {config.name: config for config in found}


@pytest.fixture(scope="session")
def run():
    """Run a command in this process, as `run("classify", folder, ...)`; gives what Click's runner gives."""
    return lambda *arguments, **options: CliRunner().invoke(app, list(map(str, arguments)), **options)


class Command(subprocess.Popen):
    """The same in a process of its own, as a script would do it, perhaps with a standard stream closed."""

    def __init__(self, *arguments, closed=None, **options):
        words = [sys.executable, "-m", "mlclip_client", *map(str, arguments)]
        if closed is not None:
            words = ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *words]
        super().__init__(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)

    def finish(self):
        """Wait for its end: exit code, stdout, stderr."""
        stdout, stderr = self.communicate(timeout=1800)
        return self.returncode, stdout, stderr


@pytest.fixture
def start():
    """Start a command; one that the test leaves running, as when it fails, is killed."""
    with contextlib.ExitStack() as stack:

        def started(*arguments, **options):
            process = stack.enter_context(Command(*arguments, **options))
            stack.callback(process.kill)
            return process

        yield started


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("repository")
    write_repository(root)
    return Tiny(root, LABELS, WEIGHTS, SPEC)


@pytest.fixture(scope="session")
def server(tiny):
    """The real server; tests that kill one use `start_server`."""
    from mlclip_serve import Server

    with Server(tiny.root, ready_timeout=600) as running:
        yield running


@pytest.fixture(scope="session")
def lasting_port():
    """Find ports that stay free while their server is away: below those that the system gives to connections."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

    def found():
        while True:
            port = random.randrange(10_000, first)
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port

    return found


@pytest.fixture
def mortal_server(tiny, lasting_port):
    """A server of the test's own, to be killed."""
    from mlclip_serve import Server

    with Server(tiny.root, grpc_port=lasting_port(), ready_timeout=600) as running:
        yield running
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)  # a killed server leaves the processes of its Python models
    shutil.rmtree(running.log.parent, ignore_errors=True)


@dataclass(frozen=True)
class Gate:
    """An image at which the server stops until told to go on: a request that is surely under way."""

    image: bytes
    entered_pipe: int
    go_pipe: int

    def await_request(self):
        """Return once the server works on the image."""
        ready, _, _ = select.select([self.entered_pipe], [], [], 600)
        assert ready, "the image never reached the server"
        os.read(self.entered_pipe, 1)

    def open(self):
        """Let the server go on with one image."""
        os.write(self.go_pipe, b"!")


@pytest.fixture
def gate(tmp_path):
    folder = tmp_path / "gate"
    folder.mkdir()
    pipes = []
    for name in ("entered", "go"):
        os.mkfifo(folder / name)
        pipes.append(os.open(folder / name, os.O_RDWR))
    yield Gate(b"gate " + bytes(folder), *pipes)
    shutil.rmtree(folder)  # a request that comes late finds no gate, instead of waiting there for ever
    for pipe in pipes:
        os.close(pipe)


def noise_file(number, kind="PNG"):
    draw = np.random.default_rng(number)
    tint = draw.integers(0, 200, 3)
    pixels = tint + draw.integers(0, 56, (9 + number % 5, 11 + number % 7, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def files():
    """Forty image files, all different."""
    return [noise_file(number, ("PNG", "JPEG")[number % 2]) for number in range(40)]


@pytest.fixture
def folder(tmp_path, files):
    """The same files in a folder with a subfolder: 00.png, 01.jpg, ... 20.png in `sub` and on."""
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for number, data in enumerate(files):
        name = f"{number:02}.{('png', 'jpg')[number % 2]}"
        (root / name if number < 20 else root / "sub" / name).write_bytes(data)
    return root


@pytest.fixture(scope="session")
def assert_same_rows():
    """Compare tables of rows: all is equal but seconds, and the last digits of scores, which batches of another size
    move, and with them the order of labels that are all but tied."""

    def parts(row):
        rest = {name: value for name, value in row.items() if name not in ("answers", "seconds")}
        scores = {}
        for head, answer in (row["answers"] or {}).items():
            rest[head] = {name: answer[name] for name in ("labels_sha256", "model", "version")}
            for kind in ("", "top_"):
                pairs = zip(answer[f"{kind}labels"], answer[f"{kind}scores"], strict=True)
                scores |= {(head, kind, label): score for label, score in pairs}
        return rest, scores

    def check(found, wanted):
        assert len(found) == len(wanted)
        for row, other in zip(found, wanted, strict=True):
            (rest, scores), (other_rest, other_scores) = parts(row), parts(other)
            assert rest == other_rest
            assert scores == pytest.approx(other_scores, rel=0, abs=1e-5)

    return check
