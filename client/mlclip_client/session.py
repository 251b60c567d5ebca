"""What every kind of client does: coroutines over a pool of transports."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tritonclient.grpc import service_pb2

from mlclip_client.errors import ClientError, ServerError, ServerUnavailable, UnknownHead
from mlclip_client.images import Captioned, ImageLike, Loaded, load, pixels_of, source_of
from mlclip_client.options import MAX_BYTES, Via
from mlclip_client.server import wire
from mlclip_client.server.catalog import Catalog, Route, choose_heads, plan_routes, read_catalog, taking
from mlclip_client.server.pool import Endpoint, EndpointPool
from mlclip_client.server.transport import Transport
from mlclip_client.server.versions import VersionLock, newest
from mlclip_client.values import HeadInfo, Prediction


@dataclass(frozen=True)
class SessionOptions:
    """What is asked for each image."""

    heads: Sequence[str] | None = None  # names of the heads to ask; None: the only one that the server has
    via: Via = "bytes"  # who decodes, to the same pixels: `bytes`, the server, or `pixels`, the client
    embeddings: bool = False
    explain: bool = False  # also ask for the references behind each answer, of heads that have some
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        if self.via not in ("bytes", "pixels"):
            raise ValueError(f"via must be 'bytes' or 'pixels', not {self.via!r}")
        if isinstance(self.heads, str):
            raise ValueError(f'heads is a sequence of names: heads=("{self.heads}",)')
        if self.heads is not None and (not self.heads or len(set(self.heads)) != len(self.heads)):
            raise ValueError(f"name at least one head, and each once, not: {', '.join(self.heads) or 'none'}")
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {self.max_bytes}")


class Session:
    """A conversation with one or more servers: learns what they serve, then classifies.

    The catalog of a server is read before its first image, and again whenever another server may have taken its place:
    after it was away, after its connection broke, and when an answer comes from a version that is not in the catalog.
    All servers of the pool must serve the same versions of the heads that are asked.
    """

    def __init__(self, options: SessionOptions, pool: EndpointPool[Any]) -> None:
        self._options, self._pool = options, pool
        self._catalogs: dict[str, tuple[int, Catalog]] = {}
        self._versions: VersionLock | None = None
        self._lock = threading.Lock()

    async def catalog(self) -> Catalog:
        """Give the catalog of one of the servers."""
        return await self._pool.ask(self._catalog_of)

    async def served(self, names: Sequence[str] | None = None) -> tuple[HeadInfo, ...]:
        """Describe some heads, or all, sorted by name; raises UnknownHead."""
        catalog, via = await self.catalog(), self._options.via
        own = {each.head.name: each.head for each in catalog.ensembles if each.head is not None and each.via == via}
        heads = choose_heads(catalog, sorted(catalog.heads) if names is None else names)
        return tuple(own.get(head.name, head) for head in heads)

    async def asked(self) -> tuple[HeadInfo, ...]:
        """Give the heads that this session asks; raises UnknownHead if a server lacks one, or two servers differ."""
        return (await self._lock_versions()).heads

    async def classify(self, image: ImageLike, text: str | None = None) -> Prediction:
        """Classify one image, with its text for heads that read it; raises ClientError.

        If a server has got a new version of a head, the labels are read and the image is sent again, so that names
        always belong to their scores.
        """
        loaded = await self._pool.work(partial(load, image, self._options.max_bytes))
        versions = await self._lock_versions()

        async def question(endpoint: Endpoint[Any]) -> Prediction:
            try:
                return await self._classify_at(endpoint, versions, source_of(image), loaded, text)
            except ServerUnavailable:
                self._catalogs.pop(endpoint.url, None)
                raise

        try:
            return await self._pool.ask(question)
        except ServerUnavailable:
            versions.forget()
            raise

    async def attempt(self, item: ImageLike | Captioned) -> Prediction:
        """Classify one image; an error is in the prediction's `error`."""
        image, text = (item.image, item.text) if isinstance(item, Captioned) else (item, None)
        try:
            return await self.classify(image, text)
        except ClientError as error:
            return Prediction(source_of(image), answers={}, error=error)

    async def _classify_at(
        self, endpoint: Endpoint[Any], versions: VersionLock, source: str | None, image: Loaded, text: str | None
    ) -> Prediction:
        via = self._options.via if isinstance(image, bytes) else "pixels"
        for _ in range(2):
            catalog, heads = await self._heads_at(endpoint, versions)
            routes = plan_routes(catalog, heads, via)
            replies = [await self._ask(endpoint, route, image, text, first=route is routes[0]) for route in routes]
            pairs = list(zip(routes, replies, strict=True))
            if all(reply.model_version == route.ensemble.version for route, reply in pairs):
                return self._prediction(source, heads, pairs)
            self._catalogs.pop(endpoint.url, None)
        raise ServerError("the server's models change faster than they can be asked; try again later")

    async def _heads_at(self, endpoint: Endpoint[Any], versions: VersionLock) -> tuple[Catalog, tuple[HeadInfo, ...]]:
        """Give what an endpoint serves, and the heads to ask; raises ServerUnavailable if it has other versions."""
        try:
            catalog = await self._catalog_of(endpoint)
            heads = self._heads_of(catalog, endpoint.url, versions.names)
        except (UnknownHead, ServerError) as error:  # the heads were there: the server is starting or changing
            raise ServerUnavailable(str(error)) from error
        if refusal := versions.refuses(endpoint.url, heads):
            raise ServerUnavailable(refusal)
        return catalog, heads

    async def _lock_versions(self) -> VersionLock:
        if self._versions is None:
            versions = VersionLock(await self._pool.ask_each(self._offer), self._options.embeddings)
            with self._lock:  # if several threads ask first, the first answer counts for all of them
                self._versions = self._versions or versions
        return self._versions

    async def _offer(self, endpoint: Endpoint[Any]) -> tuple[str, tuple[HeadInfo, ...]]:
        catalog = await self._catalog_of(endpoint)
        if not catalog.heads and len(self._pool.endpoints) > 1:
            raise ServerUnavailable(f"{endpoint.url} serves no heads")
        return endpoint.url, self._heads_of(catalog, endpoint.url, self._options.heads)

    def _heads_of(self, catalog: Catalog, url: str, names: Sequence[str] | None) -> tuple[HeadInfo, ...]:
        heads = taking(catalog, choose_heads(catalog, names, url), self._options.via)
        if self._options.embeddings and len({head.encoder for head in heads}) > 1:
            encoders = ", ".join(f"{head.name} uses {head.encoder}" for head in heads)
            raise UnknownHead(f"embeddings need heads of one encoder: {encoders}")
        return heads

    async def _catalog_of(self, endpoint: Endpoint[Any]) -> Catalog:
        drops = endpoint.transport.drops
        known = self._catalogs.get(endpoint.url)
        if known is None or known[0] != drops:
            known = drops, await _read(endpoint.transport)
            self._catalogs[endpoint.url] = known
        return known[1]

    async def _ask(self, endpoint: Endpoint[Any], route: Route, image: Loaded, text: str | None, first: bool) -> Any:
        if route.ensemble.via == "bytes" and isinstance(image, bytes):
            payload: Any = image
        else:
            payload = await endpoint.transport.work(partial(pixels_of, image, route.spec))
        embeddings = first and self._options.embeddings
        request = wire.infer_request(route, payload, text, embeddings=embeddings, explain=self._options.explain)
        return await endpoint.transport.call("ModelInfer", request)

    def _prediction(
        self, source: str | None, heads: tuple[HeadInfo, ...], pairs: list[tuple[Route, Any]]
    ) -> Prediction:
        found = {name: answer for pair in pairs for name, answer in wire.read_answers(*pair).items()}
        embedding = wire.read_embedding(*pairs[0]) if self._options.embeddings else None
        return Prediction(source, {head.name: found[head.name] for head in heads}, embedding)


async def _read(transport: Transport) -> Catalog:
    index = await transport.call("RepositoryIndex", service_pb2.RepositoryIndexRequest(ready=True))
    models = []
    for name in sorted({model.name for model in index.models}):
        version = newest(model.version for model in index.models if model.name == name)
        reply = await transport.call("ModelConfig", service_pb2.ModelConfigRequest(name=name, version=version))
        models.append((version, reply.config))
    return read_catalog(models)
