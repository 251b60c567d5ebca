"""Answers without a server: a repository's models run in this process (`pip install 'mlclip-client[embedded]'`)."""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from mlclip_client.errors import UnknownHead
from mlclip_client.images import ImageLike, pixels_of
from mlclip_client.local.repository import Arrays, Batcher, EnsemblePlan, Repository
from mlclip_client.options import MAX_BYTES, Via
from mlclip_client.pixels import PixelSpec
from mlclip_client.server import wire
from mlclip_client.server.catalog import Route, parameters_of, plan_routes
from mlclip_client.server.pool import EndpointPool
from mlclip_client.server.transport import finish
from mlclip_client.session import Session, SessionOptions
from mlclip_client.values import HeadInfo, Prediction

_MAX_BATCH = 16  # images that go through the models together, if the models allow it
T = TypeVar("T")


class InProcess:
    """A Transport without a server: requests are answered here, by a repository's models.

    May be used from several threads. Each decodes its image; images that are ready go through the models together.
    """

    drops = 0

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._lock = threading.Lock()
        self._batchers: dict[tuple[str, ...], Batcher[npt.NDArray[np.uint8], Arrays]] = {}

    async def call(self, rpc: str, request: Any) -> Any:
        """Answer a request as Triton would; raises ClientError."""
        if rpc == "RepositoryIndex":
            return self._index()
        if rpc == "ModelConfig":
            return service_pb2.ModelConfigResponse(config=self._repository.configs[request.name])
        assert rpc == "ModelInfer", rpc
        return self._infer(request)

    async def work(self, function: Callable[[], T]) -> T:
        """Run the function here."""
        return function()

    async def pause(self, seconds: float) -> None:
        """Return at once: nothing here recovers by waiting."""

    def _index(self) -> Any:
        reply = service_pb2.RepositoryIndexResponse()
        for model in self._repository.configs:
            if version := self._repository.versions[model]:
                reply.models.add(name=model, version=version, state="READY")
        return reply

    def _infer(self, request: Any) -> Any:
        model, outputs = request.model_name, _outputs(request)
        made = self._batcher(model, outputs).ask(self._pixels(request))
        reply = service_pb2.ModelInferResponse(model_name=model, model_version=self._repository.versions[model])
        for name in outputs:
            kind = {"f": "FP32", "b": "BOOL"}[made[name].dtype.kind]
            reply.outputs.add(name=name, datatype=kind, shape=made[name].shape)
            reply.raw_output_contents.append(made[name].tobytes())
        return reply

    def _pixels(self, request: Any) -> npt.NDArray[np.uint8]:
        image = next(tensor for tensor in request.inputs if tensor.name in ("image", "pixels"))
        data = request.raw_input_contents[list(request.inputs).index(image)]
        if image.name == "pixels":
            return np.frombuffer(data, np.uint8).reshape(image.shape[1:])
        spec = PixelSpec.of(parameters_of(self._repository.configs[request.model_name]))
        return pixels_of(data[4:], spec)  # Triton's strings begin with their length

    def _batcher(self, model: str, outputs: Sequence[str]) -> Batcher[npt.NDArray[np.uint8], Arrays]:
        with self._lock:
            key = (model, *outputs)
            if key not in self._batchers:
                config = self._repository.configs[model]
                max_batch = min(_MAX_BATCH, max(config.max_batch_size, 1))
                self._batchers[key] = Batcher(EnsemblePlan(self._repository, config, outputs).run, max_batch)
            return self._batchers[key]


class Embedded(contextlib.AbstractContextManager["Embedded"]):
    """Answers for images with a repository's own models; may be used from several threads, like `Client`.

    Args:
        repository: folder of a model repository, as `mlclip-export` writes it.
        heads, embeddings, explain, max_bytes: see `Client`.
        threads: per model; 0: one per core.
        via: which ensemble's steps run; the answers are the same.

    Raises:
        ClientError: onnxruntime is missing, or the repository cannot be read.

    Example:
        >>> with Embedded("model_repository", heads=("mld",)) as models:
        ...     print(models.classify(Path("cat.jpg")).answers["mld"].chosen())
    """

    def __init__(
        self,
        repository: str | os.PathLike[str],
        *,
        heads: Sequence[str] | None = None,
        threads: int = 0,
        via: Via = "bytes",
        embeddings: bool = False,
        explain: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._options = SessionOptions(heads, via, embeddings, explain, max_bytes)
        self._repository = Repository(Path(repository), threads)
        self.transport = EndpointPool({os.fspath(repository): InProcess(self._repository)})
        self._session = Session(self._options, self.transport)

    def asked_heads(self) -> tuple[HeadInfo, ...]:
        """List the heads that are asked; raises UnknownHead also if one needs a model that cannot run here."""
        heads = finish(self._session.asked())
        for route in plan_routes(finish(self._session.catalog()), heads, self._options.via):
            for head in route.heads:
                self._check(Route(route.ensemble, (head,)))
        return heads

    def classify(self, image: ImageLike, text: str | None = None) -> Prediction:
        """Classify one image; see `Client.classify`."""
        return finish(self._session.classify(image, text))

    def _check(self, route: Route) -> None:
        options, head = self._options, route.heads[0].name
        request = wire.infer_request(route, b"", None, embeddings=options.embeddings, explain=options.explain)
        try:
            EnsemblePlan(self._repository, self._repository.configs[route.ensemble.model], _outputs(request))
        except UnknownHead as error:
            raise UnknownHead(f"head {head!r} cannot run in this process: {error}; ask a server for it") from error

    def close(self) -> None:
        """Nothing is open."""

    def __exit__(self, *_: object) -> None:
        self.close()


def _outputs(request: Any) -> tuple[str, ...]:
    return tuple(output.name for output in request.outputs)
