"""The two clients: `Client` for threads and scripts, `AsyncClient` for asyncio; same options and answers."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from mlclip_client.images import Captioned, ImageLike
from mlclip_client.options import DEFAULT_URL, MAX_BYTES, Security, Via
from mlclip_client.ordered import ordered, ordered_async
from mlclip_client.server.pool import EndpointPool
from mlclip_client.server.transport import AsyncTransport, BlockingTransport, Transport, finish
from mlclip_client.session import Session, SessionOptions
from mlclip_client.values import HeadInfo, Prediction

_AHEAD = 2  # images in memory per request under way, so that a slow one does not stall the others
R = TypeVar("R", bound=Transport)


class _Connected(ABC, Generic[R]):
    """What both clients are made of; see `Client`."""

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        heads: Sequence[str] | None = None,
        timeout: float = 30.0,
        retry_seconds: float = 0.0,
        via: Via = "bytes",
        embeddings: bool = False,
        explain: bool = False,
        max_bytes: int = MAX_BYTES,
        security: Security = Security(),  # noqa: B008  (frozen)
    ) -> None:
        options = SessionOptions(heads, via, embeddings, explain, max_bytes)
        urls = dict.fromkeys([url] if isinstance(url, str) else url)
        self.transport = EndpointPool({one: self._connect(one, timeout, security) for one in urls}, retry_seconds)
        self._session = Session(options, self.transport)

    @abstractmethod
    def _connect(self, url: str, timeout: float, security: Security) -> R:
        """Give the way to one server."""


class Client(_Connected[BlockingTransport], contextlib.AbstractContextManager["Client"]):
    """Asks a Triton server for the labels of images; may be used from several threads.

    Nothing is sent before the first image. Every request has a deadline, so no call waits for ever.
    `transport.endpoints` tells which servers answer, `transport.retries` how many requests were sent again.

    Args:
        url: host:port of the server's gRPC endpoint, or several that serve the same models, see `EndpointPool`.
        heads: names of the heads to ask; None: the only head that the server has.
        timeout: deadline of each request, in seconds.
        retry_seconds: how long a request is sent again while no server answers or all are busy; once this time was over
            for one image, others fail at once until a server answers.
        via: `bytes` lets the server decode images, `pixels` decodes them here, to the same pixels.
        embeddings: also fetch each image's embedding.
        explain: also fetch the reference images behind each answer, from heads that have some.
        max_bytes: image files over this size are refused (`TooLarge`).
        security: TLS, and headers that a proxy asks for; files that cannot be read raise OSError.

    Example:
        >>> with Client("127.0.0.1:8001", heads=("mld",)) as client:
        ...     print(client.classify(Path("cat.jpg")).answers["mld"].chosen())
    """

    def _connect(self, url: str, timeout: float, security: Security) -> BlockingTransport:
        return BlockingTransport(url, timeout, security)

    def heads(self) -> tuple[HeadInfo, ...]:
        """List the heads that the server serves, by name."""
        return finish(self._session.served())

    def asked_heads(self) -> tuple[HeadInfo, ...]:
        """List the heads that this client asks, in the order of `heads=`; raises UnknownHead."""
        return finish(self._session.asked())

    def model_info(self, head: str) -> HeadInfo:
        """Give labels, thresholds and preprocessing of one head; raises UnknownHead."""
        return finish(self._session.served((head,)))[0]

    def classify(self, image: ImageLike, text: str | None = None) -> Prediction:
        """Classify one image; raises ClientError.

        Args:
            image: a file's bytes, a path, a Pillow picture, or uint8 pixels [S, S, 3], S the encoder's size.
            text: its title or caption, for heads that read one; other heads ignore it.
        """
        return finish(self._session.classify(image, text))

    def classify_many(self, images: Iterable[ImageLike | Captioned], *, concurrency: int = 32) -> Iterator[Prediction]:
        """Classify any number of images, in input order.

        `images` is read lazily, by a thread of its own. At most `concurrency` images are in work and twice as many in
        memory. If an image fails, its prediction has an `error`, and the others go on.

        Args:
            images: see `classify`; paths keep memory use constant. One with a text comes as `Captioned(image, text)`.
            concurrency: the most requests under way.

        Raises:
            ClientError: no server can be asked at all when this starts.
        """
        _check_concurrency(concurrency)
        return self._classify_many(images, concurrency)

    def _classify_many(self, images: Iterable[ImageLike | Captioned], concurrency: int) -> Iterator[Prediction]:
        self.asked_heads()
        attempt = self._session.attempt
        yield from ordered(lambda image: finish(attempt(image)), images, concurrency, _AHEAD * concurrency)

    def close(self) -> None:
        """Close the connections."""
        for endpoint in self.transport.endpoints:
            endpoint.transport.close()

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Connected[AsyncTransport], contextlib.AbstractAsyncContextManager["AsyncClient"]):
    """The client for asyncio: the arguments and methods of `Client`, to be awaited.

    An object belongs to the event loop in which it is first used. Files are read in asyncio's thread pool.
    """

    def _connect(self, url: str, timeout: float, security: Security) -> AsyncTransport:
        return AsyncTransport(url, timeout, security)

    async def heads(self) -> tuple[HeadInfo, ...]:
        """List the heads that the server serves, by name."""
        return await self._session.served()

    async def asked_heads(self) -> tuple[HeadInfo, ...]:
        """List the heads that this client asks, in the order of `heads=`; raises UnknownHead."""
        return await self._session.asked()

    async def model_info(self, head: str) -> HeadInfo:
        """Give labels, thresholds and preprocessing of one head; raises UnknownHead."""
        return (await self._session.served((head,)))[0]

    async def classify(self, image: ImageLike, text: str | None = None) -> Prediction:
        """Classify one image; arguments and errors as in `Client.classify`."""
        return await self._session.classify(image, text)

    async def classify_many(
        self, images: Iterable[ImageLike | Captioned], *, concurrency: int = 32
    ) -> AsyncIterator[Prediction]:
        """Classify any number of images, in input order; see `Client.classify_many`."""
        _check_concurrency(concurrency)
        await self.asked_heads()
        predictions = ordered_async(self._session.attempt, images, concurrency, _AHEAD * concurrency)
        async with contextlib.aclosing(predictions):
            async for prediction in predictions:
                yield prediction

    async def close(self) -> None:
        """Close the connections."""
        for endpoint in self.transport.endpoints:
            await endpoint.transport.close()

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _check_concurrency(concurrency: int) -> None:
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
