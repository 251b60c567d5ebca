"""What a client does, once for both kinds of client: coroutines over transports."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from mlclip_client.errors import ClientError, ServerError, ServerUnavailable, UnknownHead
from mlclip_client.images import Captioned, ImageLike, Loaded, load, pixels_of, source_of
from mlclip_client.server import wire
from mlclip_client.server.catalog import Catalog, Route, Via, choose_heads, plan_routes, read_catalog, taking
from mlclip_client.server.pool import Endpoint, EndpointPool
from mlclip_client.server.transport import Transport
from mlclip_client.server.versions import VersionLock
from mlclip_client.values import HeadInfo, Prediction

MAX_BYTES = 64 * 2**20
"""Files over this size are refused unless `max_bytes` says otherwise."""


@dataclass(frozen=True)
class Options:
    """What is asked of the server, and how.

    Attributes:
        heads: names of the heads to ask; None: the only one that the server has.
        via: `bytes` (the server decodes) or `pixels` (this side decodes, to the same pixels).
        embeddings: also ask for each image's embedding.
        explain: also ask for the references behind each answer, where a head has some.
        max_bytes: larger files are refused.
    """

    heads: tuple[str, ...] | None
    via: Via
    embeddings: bool
    explain: bool
    max_bytes: int

    def __post_init__(self) -> None:
        if self.via not in ("bytes", "pixels"):
            raise ValueError(f"via must be 'bytes' or 'pixels', not {self.via!r}")
        if self.heads is not None and (not self.heads or len(set(self.heads)) != len(self.heads)):
            raise ValueError(f"name at least one head, and each once, not: {', '.join(self.heads) or 'none'}")
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {self.max_bytes}")


class Session:
    """A conversation with one or more servers: learns what they serve, then classifies.

    What a server serves is read when it is first asked, and anew whenever it may be another one: after it was away,
    after its connection broke, and when an answer comes from a version that is not the one that was read.

    Args:
        options: what is asked.
        servers: whom; all must serve the same versions of the heads that are asked.
    """

    def __init__(self, options: Options, servers: EndpointPool[Any]) -> None:
        self._options, self._servers = options, servers
        self._catalogs: dict[str, tuple[int, Catalog]] = {}
        self._agreed: VersionLock | None = None
        self._lock = threading.Lock()

    async def catalog(self) -> Catalog:
        """Give what one of the servers serves."""
        return await self._servers.ask(self._catalog_of)

    async def served(self, names: Sequence[str] | None = None) -> tuple[HeadInfo, ...]:
        """Give what is known of some heads, or of all by name; raises UnknownHead."""
        catalog, via = await self.catalog(), self._options.via
        own = {each.head.name: each.head for each in catalog.ensembles if each.head is not None and each.via == via}
        heads = choose_heads(catalog, sorted(catalog.heads) if names is None else names)
        return tuple(own.get(head.name, head) for head in heads)

    async def asked(self) -> tuple[HeadInfo, ...]:
        """Give the heads that this session asks.

        Raises:
            UnknownHead: a server does not have one, or two servers have different ones.
        """
        return (await self._agreement()).heads

    async def classify(self, image: ImageLike, text: str | None = None) -> Prediction:
        """Classify one image, with its text for heads that read it; raises ClientError.

        A server may get a new version of a head while a session lives. Then the labels are read again, and the image
        is asked again, so that names always belong to their scores.
        """
        loaded = await self._servers.work(partial(load, image, self._options.max_bytes))
        agreed = await self._agreement()

        async def question(endpoint: Endpoint[Any]) -> Prediction:
            try:
                return await self._classify_at(endpoint, agreed, source_of(image), loaded, text)
            except ServerUnavailable:
                self._catalogs.pop(endpoint.url, None)
                raise

        try:
            return await self._servers.ask(question)
        except ServerUnavailable:
            agreed.forget()
            raise

    async def attempt(self, item: ImageLike | Captioned) -> Prediction:
        """Classify one image; what goes wrong is in the prediction's `error`."""
        image, text = (item.image, item.text) if isinstance(item, Captioned) else (item, None)
        try:
            return await self.classify(image, text)
        except ClientError as error:
            return Prediction(source_of(image), answers={}, error=error)

    async def _classify_at(
        self, endpoint: Endpoint[Any], agreed: VersionLock, source: str | None, image: Loaded, text: str | None
    ) -> Prediction:
        via = self._options.via if isinstance(image, bytes) else "pixels"
        for _ in range(2):
            catalog, heads = await self._heads_at(endpoint, agreed)
            routes = plan_routes(catalog, heads, via)
            replies = [await self._ask(endpoint, route, image, text, first=route is routes[0]) for route in routes]
            pairs = list(zip(routes, replies, strict=True))
            if all(reply.model_version == route.ensemble.version for route, reply in pairs):
                return self._prediction(source, heads, pairs)
            self._catalogs.pop(endpoint.url, None)
        raise ServerError("the server's models change faster than they can be asked; try again later")

    async def _heads_at(self, endpoint: Endpoint[Any], agreed: VersionLock) -> tuple[Catalog, tuple[HeadInfo, ...]]:
        """Give what an endpoint serves, and the heads that are asked; raises ServerUnavailable where it has others."""
        try:
            catalog = await self._catalog_of(endpoint)
            heads = self._heads_of(catalog, endpoint.url, agreed.names)
        except (UnknownHead, ServerError) as error:  # there were such: the server starts, stops or is changed
            raise ServerUnavailable(str(error)) from error
        if refusal := agreed.refuses(endpoint.url, heads):
            raise ServerUnavailable(refusal)
        return catalog, heads

    async def _agreement(self) -> VersionLock:
        if self._agreed is None:
            agreed = VersionLock(await self._servers.ask_each(self._offer), self._options.embeddings)
            with self._lock:  # of threads that all asked first, all go by one answer
                self._agreed = self._agreed or agreed
        return self._agreed

    async def _offer(self, endpoint: Endpoint[Any]) -> tuple[str, tuple[HeadInfo, ...]]:
        catalog = await self._catalog_of(endpoint)
        if not catalog.heads and len(self._servers.endpoints) > 1:
            raise ServerUnavailable(f"{endpoint.url} serves no heads")
        return endpoint.url, self._heads_of(catalog, endpoint.url, self._options.heads)

    def _heads_of(self, catalog: Catalog, url: str, names: Sequence[str] | None) -> tuple[HeadInfo, ...]:
        heads = taking(catalog, choose_heads(catalog, names, url), self._options.via)
        if self._options.embeddings and len({head.encoder for head in heads}) > 1:
            raise UnknownHead("embeddings need heads of one encoder: " + _encoders(heads))
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


class Pending(Protocol):
    """A future or a task."""

    def done(self) -> bool:
        """Tell whether it has ended."""


P = TypeVar("P", bound=Pending)
I = TypeVar("I")  # noqa: E741


def in_order(start: Callable[[I], P], items: Iterable[I], window: int) -> Iterator[P]:
    """Start work on items as they come and hand it out in input order, never more than `window` at once.

    Args:
        start: begins the work on one item.
        items: read lazily, one at a time.
        window: how much may be started and not yet handed out.
    """
    waiting: deque[P] = deque()
    for item in items:
        waiting.append(start(item))
        while waiting and (len(waiting) >= window or waiting[0].done()):
            yield waiting.popleft()
    yield from waiting


async def _read(transport: Transport) -> Catalog:
    index = await transport.call("RepositoryIndex", wire.index_request())
    models = []
    for name, version in sorted(wire.ready_versions(index).items()):
        reply = await transport.call("ModelConfig", wire.config_request(name, version))
        models.append((version, reply.config))
    return read_catalog(models)


def _encoders(heads: tuple[HeadInfo, ...]) -> str:
    return ", ".join(f"{head.name} stands on {head.encoder}" for head in heads)
