"""What a client does, once for both kinds of client: coroutines over a Transport."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from mlclip_client import wire
from mlclip_client.catalog import Catalog, Route, Via, choose_heads, plan_routes, read_catalog
from mlclip_client.errors import ClientError, ServerError, UnknownHead
from mlclip_client.images import Captioned, ImageLike, Loaded, load, pixels_of, source_of
from mlclip_client.transport import Transport
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
            raise ValueError(f"heads must name at least one head, each once, not {self.heads!r}")
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {self.max_bytes}")


class Session:
    """A conversation with one server: learns what it serves, then classifies."""

    def __init__(self, options: Options, transport: Transport) -> None:
        self._options, self._transport = options, transport
        self._catalog: Catalog | None = None

    async def catalog(self, fresh: bool = False) -> Catalog:
        """Give what the server serves; asked once, or again when `fresh`."""
        if self._catalog is None or fresh:
            index = await self._transport.call("RepositoryIndex", wire.index_request())
            models = []
            for name, version in sorted(wire.ready_versions(index).items()):
                reply = await self._transport.call("ModelConfig", wire.config_request(name, version))
                models.append((version, reply.config))
            self._catalog = read_catalog(models)
        return self._catalog

    async def model_info(self, head: str) -> HeadInfo:
        """Give what is known of one head."""
        return choose_heads(await self.catalog(), (head,))[0]

    async def asked(self, fresh: bool = False) -> tuple[HeadInfo, ...]:
        """Give the heads that this session asks; raises UnknownHead."""
        heads = choose_heads(await self.catalog(fresh), self._options.heads)
        if self._options.embeddings and len({head.encoder for head in heads}) > 1:
            raise UnknownHead("embeddings need heads of one encoder: " + _encoders(heads))
        return heads

    async def classify(self, image: ImageLike, text: str | None = None) -> Prediction:
        """Classify one image, with its text for heads that read it; raises ClientError.

        A server may get a new version of a head while a session lives. The reply tells, and then the labels
        are read again and the image is asked again, so that names always belong to their scores.
        """
        loaded = await self._transport.work(partial(load, image, self._options.max_bytes))
        via = self._options.via if isinstance(loaded, bytes) else "pixels"
        for fresh in (False, True):
            heads = await self.asked(fresh)
            routes = plan_routes(await self.catalog(), heads, via)
            replies = [await self._ask(route, loaded, text, first=route is routes[0]) for route in routes]
            pairs = list(zip(routes, replies, strict=True))
            if all(reply.model_version == route.ensemble.version for route, reply in pairs):
                return self._prediction(source_of(image), heads, pairs)
        raise ServerError("the server's models change faster than they can be asked; try again later")

    async def attempt(self, item: ImageLike | Captioned) -> Prediction:
        """Classify one image; what goes wrong is in the prediction's `error`."""
        image, text = (item.image, item.text) if isinstance(item, Captioned) else (item, None)
        try:
            return await self.classify(image, text)
        except ClientError as error:
            return Prediction(source_of(image), answers={}, error=error)

    async def _ask(self, route: Route, image: Loaded, text: str | None, first: bool) -> Any:
        if route.ensemble.via == "bytes" and isinstance(image, bytes):
            payload: Any = image
        else:
            payload = await self._transport.work(partial(pixels_of, image, route.spec))
        embeddings = first and self._options.embeddings
        request = wire.infer_request(route, payload, text, embeddings=embeddings, explain=self._options.explain)
        return await self._transport.call("ModelInfer", request)

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


def _encoders(heads: tuple[HeadInfo, ...]) -> str:
    return ", ".join(f"{head.name} stands on {head.encoder}" for head in heads)
