"""Readiness of a started server: every ensemble has to answer a real inference.

Triton's own ready endpoint stays green when a Python model's process has died.
"""

import contextlib
import http.client
import io
import json
import re
import time
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from mlclip_serve.errors import ModelError, StartError

_HTTP_TIMEOUT = 5.0
_COUNT = re.compile(
    r'^nv_inference_(request_success|request_failure|pending_request_count){model="([^"]+)".*} (\d+)', re.M
)
_BUSY = ("DEADLINE_EXCEEDED", "UNAVAILABLE", "RESOURCE_EXHAUSTED")
"""What a request ends with that has waited too long, or finds no server."""


def answers(address: str, http_port: int, metrics_port: int, server_id: str) -> bool:
    """Tell whether our server answers on its ports, of which it opens that of metrics last, and is ready.

    Another name than `server_id` means that another server has the port.
    """
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        status, metadata = _get(address, http_port, "/v2")
        if status == 200 and json.loads(metadata).get("name") == server_id:
            ready = _get(address, http_port, "/v2/health/ready")[0] == 200
            return ready and _get(address, metrics_port, "/metrics")[0] == 200
    return False


def infer_ensembles(url: str, deadline: float) -> list[str]:
    """Run one inference on every ensemble; in a repository without ensembles, on every model. Gives names, sorted.

    All must have answered by the deadline, a time on the monotonic clock, or StartError is raised; raises ModelError if
    one fails, with its name and Triton's reason.
    """
    with _client(url) as client:
        try:
            configs = _configs(client, deadline)
        except InferenceServerException as error:
            raise StartError(f"the server does not list its models: {_reason(error)}") from None
        chosen = [config for config in configs if config.HasField("ensemble_scheduling")] or configs
        for config in chosen:
            _infer(client, config, deadline)
    return sorted(config.name for config in chosen)


def infer(url: str, name: str, deadline: float) -> None:
    """Run one inference on an ensemble or model; errors as for `infer_ensembles`."""
    with _client(url) as client:
        try:
            config = client.get_model_config(name, client_timeout=_left(deadline)).config
        except InferenceServerException as error:
            raise StartError(f"the server does not describe '{name}': {_reason(error)}") from None
        _infer(client, config, deadline)


def waiting(metrics_url: str) -> dict[str, int]:
    """Give for each model with requests in its queue how many it has finished since the start, failed ones included.

    Raises OSError if the server does not answer.
    """
    address, port = metrics_url.split(":")
    text = _get(address, int(port), "/metrics")[1].decode()
    queued, finished = Counter[str](), Counter[str]()
    for kind, model, count in _COUNT.findall(text):
        (queued if kind == "pending_request_count" else finished)[model] += int(count)
    return {model: finished[model] for model, count in queued.items() if count}


def _client(url: str) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(url, channel_args=[("grpc.enable_http_proxy", 0)])


def _get(address: str, port: int, path: str) -> tuple[int, bytes]:
    with contextlib.closing(http.client.HTTPConnection(address, port, timeout=_HTTP_TIMEOUT)) as connection:
        connection.request("GET", path)
        with connection.getresponse() as response:
            return response.status, response.read()


def _configs(client: triton.InferenceServerClient, deadline: float) -> list[Any]:
    index = client.get_model_repository_index(client_timeout=_left(deadline))
    names = sorted({model.name for model in index.models})
    return [client.get_model_config(name, client_timeout=_left(deadline)).config for name in names]


def _infer(client: triton.InferenceServerClient, config: Any, deadline: float) -> None:
    kind = "ensemble" if config.HasField("ensemble_scheduling") else "model"
    inputs = [_input(tensor, config.max_batch_size > 0) for tensor in config.input]
    try:
        client.infer(config.name, inputs, client_timeout=_left(deadline))
    except InferenceServerException as error:
        if any(status in str(error.status()) for status in _BUSY):
            raise StartError(
                f"{kind} '{config.name}' did not answer in time: see the log, or raise --ready-timeout"
            ) from None
        raise ModelError(f"{kind} '{config.name}' fails on a test inference: {_reason(error)}") from None


def _input(tensor: Any, batched: bool) -> triton.InferInput:
    """Make a valid value for an input: a small picture for bytes, otherwise zeros."""
    type_name = triton.model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    type_name = "BYTES" if type_name == "STRING" else type_name
    shape = [1] * batched + [max(1, size) for size in tensor.dims]
    value: npt.NDArray[Any]
    if type_name == "BYTES":
        value = np.full(shape, _picture(), dtype=np.object_)
    else:
        value = np.zeros(shape, dtype=triton_to_np_dtype(type_name))
    made = triton.InferInput(tensor.name, shape, type_name)
    made.set_data_from_numpy(value)
    return made


def _picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "gray").save(file, "PNG")
    return file.getvalue()


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _reason(error: InferenceServerException) -> str:
    """Give Triton's message without a Python traceback behind it."""
    return " ".join(str(error.message()).partition("\n\nAt:")[0].split())
