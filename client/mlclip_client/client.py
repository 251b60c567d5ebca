"""The two clients: `Client` for threads and scripts, `AsyncClient` for asyncio; same options and answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

from mlclip_client.images import Captioned, ImageLike
from mlclip_client.server.catalog import Via
from mlclip_client.server.pool import EndpointPool
from mlclip_client.server.transport import AsyncTransport, BlockingTransport, check_address, finish
from mlclip_client.session import MAX_BYTES, Options, Session, in_order
from mlclip_client.values import HeadInfo, Prediction

_AHEAD = 2
"""`concurrency` times this many images may be started and not yet handed out: a slow one stalls no other."""


class Client:
    """Asks a Triton server for the labels of images; may be used from several threads.

    Nothing is sent before the first question. Every request has a deadline, so nothing here waits for ever.
    `transport.endpoints` tells which servers answer, `transport.retries` how many requests were sent again.

    Args:
        url: host:port of the server's gRPC endpoint, or several that serve the same models: see `balance`.
        heads: names of the heads to ask; None: the only head that the server has.
        timeout: deadline of each request, in seconds.
        retry_seconds: seconds in which a request is sent again while no server answers or all are busy; once they were
            over for one image, others fail at once until a server answers.
        via: `bytes` lets the server decode images, `pixels` decodes them here, to the same pixels.
        embeddings: also fetch each image's embedding.
        explain: also fetch the reference images behind each answer, from heads that have some.
        max_bytes: image files over this size are refused (`TooLarge`).

    Raises:
        ValueError: an argument makes no sense.

    Example:
        >>> with Client("127.0.0.1:8001", heads=("mld",)) as client:
        ...     print(client.classify(Path("cat.jpg")).answers["mld"].chosen())
    """

    def __init__(
        self,
        url: str | Sequence[str] = "127.0.0.1:8001",
        *,
        heads: Sequence[str] | None = None,
        timeout: float = 30.0,
        retry_seconds: float = 0.0,
        via: Via = "bytes",
        embeddings: bool = False,
        explain: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        options = _options(heads, timeout, Options(None, via, embeddings, explain, max_bytes))
        self.transport = EndpointPool({one: BlockingTransport(one, timeout) for one in _urls(url)}, retry_seconds)
        self._session = Session(options, self.transport)

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
        """Classify one image.

        Args:
            image: a file's bytes, a path, a Pillow picture, or uint8 pixels [S, S, 3], S the encoder's size.
            text: its title or caption, for heads that read one; the others leave it aside.

        Raises:
            ClientError: see `mlclip_client.errors`.
        """
        return finish(self._session.classify(image, text))

    def classify_many(self, images: Iterable[ImageLike | Captioned], *, concurrency: int = 32) -> Iterator[Prediction]:
        """Classify any number of images, in input order.

        `images` is read lazily; at most `concurrency` images are in work and twice as many in memory. What
        goes wrong with one image is in its prediction's `error` and stops no other.

        Args:
            images: see `classify`; paths keep memory flat. One with a text comes as `Captioned(image, text)`.
            concurrency: how many requests may be under way.

        Raises:
            ClientError: the server cannot be asked at all when this starts.
        """
        _check_concurrency(concurrency)
        return self._classify_many(images, concurrency)

    def _classify_many(self, images: Iterable[ImageLike | Captioned], concurrency: int) -> Iterator[Prediction]:
        self.asked_heads()
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="mlclip-client")
        try:
            futures = in_order(lambda image: pool.submit(self._attempt, image), images, window=_AHEAD * concurrency)
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _attempt(self, image: ImageLike | Captioned) -> Prediction:
        return finish(self._session.attempt(image))

    def close(self) -> None:
        """Close the connection."""
        for transport in self.transport.transports():
            transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio: same arguments, same methods as `Client`, to be awaited.

    An object belongs to the event loop in which it is first used. Files are read in asyncio's thread pool.
    """

    def __init__(
        self,
        url: str | Sequence[str] = "127.0.0.1:8001",
        *,
        heads: Sequence[str] | None = None,
        timeout: float = 30.0,
        retry_seconds: float = 0.0,
        via: Via = "bytes",
        embeddings: bool = False,
        explain: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        options = _options(heads, timeout, Options(None, via, embeddings, explain, max_bytes))
        self.transport = EndpointPool({one: AsyncTransport(one, timeout) for one in _urls(url)}, retry_seconds)
        self._session = Session(options, self.transport)

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
        """Classify any number of images, in input order; as `Client.classify_many`."""
        _check_concurrency(concurrency)
        await self.asked_heads()
        slots = asyncio.Semaphore(concurrency)
        tasks: set[asyncio.Task[Prediction]] = set()

        async def attempt(image: ImageLike | Captioned) -> Prediction:
            async with slots:
                return await self._session.attempt(image)

        def start(image: ImageLike | Captioned) -> asyncio.Task[Prediction]:
            task = asyncio.create_task(attempt(image))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            return task

        try:
            for task in in_order(start, images, window=_AHEAD * concurrency):
                yield await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Close the connection."""
        for transport in self.transport.transports():
            await transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _urls(url: str | Sequence[str]) -> tuple[str, ...]:
    urls = (url,) if isinstance(url, str) else tuple(dict.fromkeys(url))
    if not urls:
        raise ValueError("name at least one endpoint, host:port")
    return tuple(map(check_address, urls))


def _options(heads: Sequence[str] | None, timeout: float, options: Options) -> Options:
    if isinstance(heads, str):
        raise ValueError(f'heads is a sequence of names: heads=("{heads}",)')
    if not timeout > 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout}")
    return replace(options, heads=None if heads is None else tuple(heads))


def _check_concurrency(concurrency: int) -> None:
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
