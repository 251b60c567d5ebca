"""A Triton backend that runs ONNX models on the CPU, for machines without NVIDIA's container.

Installed as `backends/onnxruntime/model.py` it is a Python-based backend: Triton runs every model whose config has
`backend: "onnxruntime"` with it, one process per instance. It reads the config of NVIDIA's native backend and ignores
what needs a GPU. A model that asks for the CPU accelerator `openvino` runs in OpenVINO's runtime if that is installed.

All requests of one `execute` become one run of the model per input shape. If the run fails, each request runs alone,
so that only the bad ones fail. Only requested outputs are fetched, and each answer carries only its own. (onnxruntime
computes the whole graph in any case, in NVIDIA's backend too.)
"""

import importlib.util
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

try:
    import triton_python_backend_utils as pb_utils
except ModuleNotFoundError:  # outside a Triton process only the parts below that need no Triton are usable
    pb_utils = None

Arrays = dict[str, npt.NDArray[Any]]
Answer = Arrays | str  # outputs by name, or the error as one line
OPENVINO = "openvino"
CORES = "MLCLIP_CORES"
"""As in `cores.py`, which this file, a copy inside Triton, cannot import."""

_INTEGERS = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
ONNX_TYPES = {f"TYPE_{kind.upper()}": f"tensor({kind})" for kind in ("bool", *_INTEGERS)}
ONNX_TYPES |= {"TYPE_FP16": "tensor(float16)", "TYPE_FP32": "tensor(float)", "TYPE_FP64": "tensor(double)"}


class TritonPythonModel:
    """One instance of an ONNX model, with the interface of Triton's Python backend."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model; raises TritonModelException if that fails, or it disagrees with its config.

        `args` from Triton are `model_config` (JSON), `model_repository` (the model's folder), `model_version` and
        `model_name`.
        """
        config = json.loads(args["model_config"])
        path = model_file(config, Path(args["model_repository"]), args["model_version"])
        for name in ignored_accelerators(config):
            hint = "not installed (pip install 'mlclip-serve[openvino]')" if name == OPENVINO else "ignored"
            pb_utils.Logger.log_warn(f"{args['model_name']}: accelerator '{name}' {hint}: onnxruntime runs on the CPU")
        try:
            self.session = open_session(path, config)
            check_config(config, self.session)
        except ValueError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.batched = int(config.get("max_batch_size", 0)) > 0

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer Triton's inference requests, each with its own batch size, in their order."""
        feeds = [self._feed(request) for request in requests]
        wanted = [list(request.requested_output_names()) for request in requests]
        answers = run_requests(self.session, feeds, wanted, self.batched)
        return [_response(answer) for answer in answers]

    def _feed(self, request: Any) -> Arrays:
        tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self.inputs}
        return {name: tensor.as_numpy() for name, tensor in tensors.items() if tensor is not None}


def model_file(config: Mapping[str, Any], folder: Path, version: str) -> Path:
    """Give the path of a model's ONNX file: `<folder>/<version>/model.onnx` unless its config names another."""
    name = config.get("default_model_filename") or "model.onnx"
    return folder / version / ("model.onnx" if name == "model.py" else name)


def ignored_accelerators(config: Mapping[str, Any]) -> list[str]:
    """List the execution accelerators of a config that are not here: all but OpenVINO, and that if not installed."""
    installed = importlib.util.find_spec(OPENVINO) is not None
    return [name for name in _accelerators(config) if not (name == OPENVINO and installed)]


def _accelerators(config: Mapping[str, Any]) -> list[str]:
    accelerators = (config.get("optimization") or {}).get("execution_accelerators") or {}
    return [entry["name"] for kind in accelerators.values() for entry in kind or []]


class OpenVino:
    """An ONNX file in OpenVINO's runtime, with what this backend uses of an onnxruntime session.

    The config's parameter `precision` may be `bf16`. Otherwise float32 stays float32, unlike by OpenVINO's default.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        precision = (config.get("parameters") or {}).get("precision", {}).get("string_value")
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": _threads(config),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # other models use the cores, too
        }
        model = importlib.import_module(OPENVINO).Core().compile_model(str(path), "CPU", settings)
        self.get_inputs, self.get_outputs = (partial(_described, ports) for ports in (model.inputs, model.outputs))
        self._request = model.create_infer_request()

    def run(self, names: Sequence[str], feeds: Arrays) -> list[npt.NDArray[Any]]:
        """Run on inputs by name, and give the outputs of some names."""
        self._request.infer(feeds, share_inputs=True, share_outputs=True)  # only what is wanted is copied
        return [self._request.get_tensor(name).data.copy() for name in names]


def _described(ports: Sequence[Any]) -> list[SimpleNamespace]:
    """Name tensors with their types as onnxruntime does."""
    types = {"float32": "float", "float64": "double"}
    kinds = [port.get_element_type().to_dtype().name for port in ports]
    named = zip(ports, (f"tensor({types.get(kind, kind)})" for kind in kinds), strict=True)
    return [SimpleNamespace(name=port.get_any_name(), type=kind) for port, kind in named]


def open_session(path: Path, config: Mapping[str, Any]) -> Any:
    """Open an ONNX file for the CPU, in onnxruntime, or in OpenVINO if the config asks for it and it is installed.

    The config's parameters `intra_op_thread_count`, `inter_op_thread_count` and `execution_mode` have the same meaning
    as for NVIDIA's backend. Raises ValueError if the file is missing or broken, or a parameter is not a whole number.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    options = _options(config)
    try:
        if OPENVINO in _accelerators(config) and OPENVINO not in ignored_accelerators(config):
            return OpenVino(path, config)
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exceptions of the two share no other base class
        raise ValueError(f"{path} is broken: {_one_line(error)}") from None


def _options(config: Mapping[str, Any]) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = _threads(config)
    options.inter_op_num_threads = _parameter(config, "inter_op_thread_count")
    if _parameter(config, "execution_mode") == 1:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    # Each model has a process: threads that spin while they wait would take the others' cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def check_config(config: Mapping[str, Any], session: Any) -> None:
    """Compare a model's config with its ONNX file.

    Raises ValueError if an input or output of the config is not in the file or has another type there, or if the config
    lacks an input of the file.
    """
    for kind, found in (("input", session.get_inputs()), ("output", session.get_outputs())):
        types = {tensor.name: tensor.type for tensor in found}
        for tensor in config[kind]:
            name, expected = tensor["name"], ONNX_TYPES.get(tensor["data_type"])
            if expected is None:
                raise ValueError(f"{kind} '{name}': {tensor['data_type']} is not supported by the CPU backend")
            if name not in types:
                raise ValueError(f"{kind} '{name}' of config.pbtxt is not in the ONNX file, which has {_names(types)}")
            if types[name] != expected:
                raise ValueError(f"{kind} '{name}' is {types[name]} in the ONNX file, {expected} in config.pbtxt")
    missing = {tensor.name for tensor in session.get_inputs()} - {tensor["name"] for tensor in config["input"]}
    if missing:
        raise ValueError(f"the ONNX file needs input {_names(missing)}, which config.pbtxt lacks")


def run_requests(session: Any, feeds: Sequence[Arrays], wanted: Sequence[Sequence[str]], batched: bool) -> list[Answer]:
    """Run requests in as few runs as their shapes allow.

    `feeds` has the inputs of each request by name, `wanted` the names of its outputs. If `batched`, each array is
    [b, ...] with the request's b, and requests are joined along this axis. Gives for each request its wanted outputs by
    name, [b, ...], or the error as one line.
    """
    answers: list[Answer] = [""] * len(feeds)
    for group in _groups(feeds, batched):
        names = sorted({name for index in group for name in wanted[index]})
        results = _run_group(session, [feeds[index] for index in group], names, batched)
        for index, result in zip(group, results, strict=True):
            answers[index] = result if isinstance(result, str) else {name: result[name] for name in wanted[index]}
    return answers


def _groups(feeds: Sequence[Arrays], batched: bool) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for index, feed in enumerate(feeds):
        key = tuple((name, array.shape[1:], array.dtype.str) for name, array in sorted(feed.items()))
        groups.setdefault(key if batched else index, []).append(index)
    return list(groups.values())


def _run_group(session: Any, feeds: Sequence[Arrays], names: list[str], batched: bool) -> list[Answer]:
    """Run requests of one shape together; if that fails, each alone, so that only the bad ones fail."""
    joined = feeds[0] if len(feeds) == 1 else {n: np.concatenate([feed[n] for feed in feeds]) for n in feeds[0]}
    try:
        outputs = dict(zip(names, session.run(names, joined), strict=True)) if names else {}
    except Exception as error:  # onnxruntime's exceptions share no other base class
        if len(feeds) == 1:
            return [_one_line(error)]
        return [answer for feed in feeds for answer in _run_group(session, [feed], names, batched)]
    return _split(outputs, [len(next(iter(feed.values()))) for feed in feeds]) if batched else [outputs]


def _split(outputs: Arrays, sizes: Sequence[int]) -> list[Answer]:
    """Cut each output [sum(sizes), ...] into one piece per request."""
    ends = list(itertools.accumulate(sizes))
    for name, output in outputs.items():
        if output.ndim == 0 or len(output) != ends[-1]:
            problem = f"output '{name}' has no batch axis: shape {list(output.shape)} for a batch of {ends[-1]}"
            return [problem] * len(ends)
    pieces = zip(sizes, ends, strict=True)
    return [{name: output[end - size : end] for name, output in outputs.items()} for size, end in pieces]


def _response(answer: Answer) -> Any:
    if isinstance(answer, str):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(answer))
    tensors = [pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in answer.items()]
    return pb_utils.InferenceResponse(tensors)


def _threads(config: Mapping[str, Any]) -> int:
    return _parameter(config, "intra_op_thread_count") or int(os.environ.get(CORES, "0"))


def _parameter(config: Mapping[str, Any], key: str) -> int:
    """Read a whole number from the config's parameters; by default 0, which leaves the choice to onnxruntime."""
    value = (config.get("parameters") or {}).get(key, {}).get("string_value", "0")
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"parameter {key} must be a whole number, not {value!r}") from None


def _names(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
