"""A small model repository after the contract, made by hand, and the real server on it."""

import contextlib
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
import pytest
from google.protobuf import text_format
from mlclip_client.cli import app
from mlclip_serve import Server
from PIL import Image
from tritonclient.grpc import model_config_pb2 as pb
from typer.testing import CliRunner

from ..models import same, write_config, write_ensemble, write_onnx
from .input_files import encoded
from .scripted import digest_of

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


ENCODER = f"""
(uint8[batch, {SIZE}, {SIZE}, 3] pixels)
=> (float[batch, 3] embedding, float[batch, {SIZE * SIZE}, 3] tokens, float[batch, 3] embedding_out) {{
    floats = Cast<to = 1>(pixels)
    unit = Div(floats, full)
    embedding = ReduceMean<keepdims = 0>(unit, axes)
    embedding_out = Identity(embedding)
    tokens = Reshape(unit, shape)
}}"""
ENCODER_WEIGHTS = {"full": np.float32(255), "axes": np.int64([1, 2]), "shape": np.int64([0, SIZE * SIZE, 3])}
HEAD = """
(float[batch, {dims}] {feature}) => (float[batch, {count}] logits) {{
    flat = Flatten({feature})
    logits = Gemm(flat, matrix, bias)
}}"""
THRESHOLD = """
(float[batch, {count}] logits)
=> (float[batch, {count}] scores, bool[batch, {count}] selected, int32[batch, {top}] top_index,
    float[batch, {top}] top_score) {{
    scores = Sigmoid(logits)
    selected = GreaterOrEqual(scores, thresholds)
    top_score, order = TopK(scores, k)
    top_index = Cast<to = 6>(order)
}}"""
IMAGE = ("image", pb.TYPE_STRING, [1])
PIXELS = ("pixels", pb.TYPE_UINT8, [SIZE, SIZE, 3])
EMBEDDING_OUT = ("embedding_out", pb.TYPE_FP32, [3])


def threshold_outputs(name):
    count = len(LABELS[name])
    top = min(count, 32)
    return [
        ("scores", pb.TYPE_FP32, [count]),
        ("selected", pb.TYPE_BOOL, [count]),
        ("top_index", pb.TYPE_INT32, [top]),
        ("top_score", pb.TYPE_FP32, [top]),
    ]


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
        "labels_sha256": digest_of(labels),
        "thresholds": json.dumps([float(value) for value in WEIGHTS[name].thresholds]),
    }


def write_heads(folder, heads, parameters):
    """Write an ensemble for some heads; a combined one prefixes its outputs with the head's name."""
    combined, from_bytes = parameters["mlclip_kind"] == "combined", folder.name.endswith("_bytes")
    steps = [("preprocess", same("image"), same("pixels"))] if from_bytes else []
    features = {FEATURES[head] for head in heads}
    steps.append(("encoder_tiny", same("pixels"), same(*sorted(features | {"embedding_out"}))))
    outputs = [EMBEDDING_OUT]
    for head in heads:
        logits, prefix = f"{head}_logits", f"{head}_" if combined else ""
        steps.append((f"head_{head}", same(FEATURES[head]), {"logits": logits}))
        mapped = {tensor: prefix + tensor for tensor, _, _ in threshold_outputs(head)}
        steps.append((f"threshold_{head}", {"logits": logits}, mapped))
        outputs += [(prefix + tensor, type_, dims) for tensor, type_, dims in threshold_outputs(head)]
    write_ensemble(folder, [IMAGE if from_bytes else PIXELS], outputs, steps, parameters)


def write_repository(root):
    """Write the whole repository: two heads, one encoder, four models a head, two combined ensembles."""
    write_config(root / "preprocess", [IMAGE], [PIXELS], {"image_size": str(SIZE)}, backend="python")
    (root / "preprocess/1/model.py").write_text(PREPROCESS)
    shutil.copy(mlclip_client.pixels.__file__, root / "preprocess/1/pixels.py")
    batched = {"dynamic_batching": pb.ModelDynamicBatching()}
    write_onnx(root / "encoder_tiny", ENCODER, ENCODER_WEIGHTS, **batched)
    for head, weights in WEIGHTS.items():
        count, dims = len(LABELS[head]), "3" if FEATURES[head] == "embedding" else f"{SIZE * SIZE}, 3"
        graph = HEAD.format(dims=dims, feature=FEATURES[head], count=count)
        write_onnx(root / f"head_{head}", graph, {"matrix": weights.matrix, "bias": weights.bias}, **batched)
        top = min(count, 32)
        constants = {"thresholds": weights.thresholds, "k": np.int64([top])}
        write_onnx(root / f"threshold_{head}", THRESHOLD.format(count=count, top=top), constants, **batched)
        for suffix in ("", "_bytes"):
            write_heads(root / (head + suffix), [head], head_facts(head))
    combined = encoder_facts() | {"mlclip_kind": "combined", "heads": json.dumps(list(LABELS))}
    for suffix in ("", "_bytes"):
        write_heads(root / f"heads_tiny{suffix}", list(LABELS), combined)


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


def end(running):
    """Kill a server and the processes of its Python models, which a killed server leaves; its port is released."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.process.wait()


@pytest.fixture
def serve(lasting_port):
    """Start servers that are killed at the end; `end` ends one earlier."""
    with contextlib.ExitStack() as stack:

        def started(root, port=None):
            running = stack.enter_context(Server(root, grpc_port=port or lasting_port(), ready_timeout=600))
            stack.callback(shutil.rmtree, running.log.parent, ignore_errors=True)
            stack.callback(end, running)
            return running

        yield started


@pytest.fixture
def mortal_server(tiny, serve):
    """A server of the test's own, to be killed."""
    return serve(tiny.root)


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

    def has_request(self):
        """Whether the server works on the image again."""
        return bool(select.select([self.entered_pipe], [], [], 0)[0])

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
    return encoded(Image.fromarray(pixels.astype(np.uint8)), kind)


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


@pytest.fixture
def job(tmp_path):
    return tmp_path / "job"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
