"""The ONNX models of a model repository, run in this process.

Only those steps of an ensemble run that lead to the outputs that are asked for, as in Triton.
"""

import importlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from mlclip_client.cpu import OpenVino, cores
from mlclip_client.errors import ClientError, ServerError, ServerUnavailable, UnknownHead
from mlclip_client.events import tell
from mlclip_client.server.catalog import parameters_of
from mlclip_client.server.versions import newest

Arrays = dict[str, npt.NDArray[Any]]
I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


class Repository:
    """The folder of a model repository: reads all configurations at once, and a model when it is first run.

    `root` holds one folder per model, as `mlclip-export` writes it; each model has some threads, 0: one per core. Of
    each model, `configs` has its ModelConfig message, and `versions` its newest version, which Triton serves; empty if
    there is none.
    """

    def __init__(self, root: Path, threads: int = 0) -> None:
        try:
            self._onnxruntime = importlib.import_module("onnxruntime")
        except ImportError as error:
            hint = "pip install 'mlclip-client[embedded]', or [gpu] with an NVIDIA GPU"
            raise ClientError(f"models run in this process with onnxruntime, which is missing: {hint}") from error
        self._root, self._threads, self._providers = root, threads or cores(), providers(self._onnxruntime)
        self._lock, self._sessions = threading.Lock(), dict[str, Any]()
        files = sorted(root.glob("*/config.pbtxt"))
        if not files:
            raise ValueError(f"{root} is no model repository: no folder in it holds a config.pbtxt")
        self.configs = {file.parent.name: _read_config(file) for file in files}
        self.versions = {file.parent.name: newest(path.name for path in file.parent.iterdir()) for file in files}

    def graph(self, model: str) -> Path:
        """Give a model's ONNX file; raises UnknownHead if it has none."""
        file = self._root / model / self.versions.get(model, "") / "model.onnx"
        if not file.is_file():
            raise UnknownHead(f"the model {model!r} is not an ONNX file, and runs in Triton only")
        return file

    def run(self, model: str, outputs: Sequence[str], feeds: Arrays) -> list[npt.NDArray[Any]]:
        """Run a model on inputs by name, [b, ...]; give the outputs of the names asked for, [b, ...].

        Raises ServerError if it fails, ServerUnavailable if it cannot be loaded.
        """
        session = self._session(model)
        try:
            found: list[npt.NDArray[Any]] = session.run(list(outputs), feeds)
        except Exception as error:  # onnxruntime's exceptions share no other base class
            raise ServerError(f"the model {model!r} of {self._root} failed: {error}") from error
        return found

    def _session(self, model: str) -> Any:
        with self._lock:
            if model not in self._sessions:
                try:
                    self._sessions[model] = self._opened(self.graph(model), self.configs[model])
                except Exception as error:  # as above
                    raise ServerUnavailable(f"the model {model!r} of {self._root} cannot be loaded: {error}") from error
            return self._sessions[model]

    def _opened(self, graph: Path, config: Any) -> Any:
        """Open a graph in the runtime that its config asks for: OpenVINO if it is installed, else onnxruntime."""
        accelerators = config.optimization.execution_accelerators.cpu_execution_accelerator
        if len(self._providers) == 1 and any(accelerator.name == "openvino" for accelerator in accelerators):
            try:
                return OpenVino(graph, self._threads, parameters_of(config).get("precision", ""))
            except ImportError:
                hint = "it runs in onnxruntime; pip install 'mlclip-client[openvino]'"
                tell(
                    "no openvino", logging.WARNING, notice=f"{config.name} asks for OpenVINO, which is missing: {hint}"
                )
        options = self._onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others decode meanwhile
        return self._onnxruntime.InferenceSession(graph, options, providers=self._providers)


def providers(onnxruntime: Any) -> list[str]:
    """What models run on: CUDA, if the installed package was built for it, else the CPU, as where CUDA has no GPU."""
    gpu = [name for name in onnxruntime.get_available_providers() if name == "CUDAExecutionProvider"]
    if gpu:
        onnxruntime.preload_dlls()  # CUDA's libraries may come as packages, which the loader does not find by itself
    return [*gpu, "CPUExecutionProvider"]


class EnsemblePlan:
    """The steps of an ensemble that lead from pixels to some of its outputs.

    Raises UnknownHead if a step is not an ONNX model, ServerError if no step makes an output.
    """

    def __init__(self, repository: Repository, config: Any, outputs: Sequence[str]) -> None:
        self._repository, self._outputs = repository, tuple(outputs)
        makers = {tensor: step for step in config.ensemble_scheduling.step for tensor in step.output_map.values()}
        self._steps: list[Any] = []
        self._wanted = {"pixels"}

        def reach(tensor: str) -> None:
            if tensor in self._wanted:
                return
            self._wanted.add(tensor)
            if tensor not in makers:
                raise ServerError(f"no step of the ensemble {config.name!r} makes {tensor!r}; export again")
            step = makers[tensor]
            repository.graph(step.model_name)
            for needed in step.input_map.values():
                reach(needed)
            if step not in self._steps:
                self._steps.append(step)

        for tensor in outputs:
            reach(tensor)

    def run(self, pixels: Sequence[npt.NDArray[np.uint8]]) -> list[Arrays]:
        """Run the steps on the pixels, uint8 [S, S, 3], of some images; give each one's outputs by name, [1, ...]."""
        tensors: Arrays = {"pixels": np.stack(pixels)}
        for step in self._steps:
            feeds = {name: tensors[tensor] for name, tensor in step.input_map.items()}
            made = {name: tensor for name, tensor in step.output_map.items() if tensor in self._wanted}
            results = self._repository.run(step.model_name, list(made), feeds)
            tensors.update(zip(made.values(), results, strict=True))
        return [{name: tensors[name][index : index + 1] for name in self._outputs} for index in range(len(pixels))]


class Batcher(Generic[I, R]):
    """Puts the requests of several threads into batches of at most `max_batch` items.

    A thread that asks while a batch is in work waits. Then one of the waiting threads works for all of them: `work`
    gives one result per item of a batch, and is called by one thread at a time.
    """

    def __init__(self, work: Callable[[Sequence[I]], Sequence[R]], max_batch: int) -> None:
        self._work, self._max_batch = work, max_batch
        self._waiting: list[tuple[I, Future[R]]] = []
        self._adding, self._working = threading.Lock(), threading.Lock()

    def ask(self, item: I) -> R:
        """Give the result for one item; raises what the work raises."""
        answer: Future[R] = Future()
        with self._adding:
            self._waiting.append((item, answer))
        while not answer.done():
            with self._working:
                if not answer.done():
                    self._work_on_batch()
        return answer.result()

    def _work_on_batch(self) -> None:
        with self._adding:
            batch, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
        try:
            results = self._work([item for item, _ in batch])
        except BaseException as error:
            for _, answer in batch:
                answer.set_exception(error)
            return
        for (_, answer), result in zip(batch, results, strict=True):
            answer.set_result(result)


def _read_config(file: Path) -> Any:
    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(file.read_text(encoding="utf-8"), config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ServerError(f"{file} cannot be read: {error}; export again") from error
    config.name = file.parent.name
    return config
