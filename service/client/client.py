"""The blocking and the asynchronous client, with the same calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, Self, TypeVar

import httpx
from numpy.typing import NDArray

from service.client.calls import (
    AnomalyScores,
    Encoding,
    Floats,
    ImageLike,
    ImageScore,
    ImagesLike,
    Outcome,
    Pause,
    Request,
    anomaly_map_call,
    anomaly_score_call,
    attempts,
    batches,
    decode_call,
    describe_call,
    each,
    encode_call,
    reconstruct_call,
    sample_call,
)

T = TypeVar("T")
H = TypeVar("H")


class _Base(Generic[H]):
    """The options of both clients."""

    _open: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        url: str = "http://localhost:8000",
        *,
        timeout_s: float = 30.0,
        max_attempts: int = 5,
        max_connections: int = 16,
        api_key: str | None = None,
    ) -> None:
        """Connections to `url` are kept open and shared. `api_key` is sent with every call.

        `timeout_s` limits each call including its retries. The remaining time is sent to the
        service, which drops work that it could not finish in time.
        """
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self._http: H = self._open(
            base_url=url,
            limits=httpx.Limits(max_connections=max_connections),
            headers=None if api_key is None else {"Authorization": f"Bearer {api_key}"},
        )


class Client(_Base[httpx.Client]):
    """The blocking client. Threads can share it. Close it, or use `with`.

    Methods raise `ProblemError` if the service refuses a request, and `UnreachableError` if there
    is no response.
    """

    _open = httpx.Client

    def encode(self, images: ImagesLike, *, invert: bool = False) -> Encoding:
        """The posterior of each image. `mu` is the embedding.

        `invert`, here and in other methods, is for files with dark ink on light paper.
        """
        return self._call(encode_call(images, invert))

    def decode(self, z: NDArray[Any]) -> Floats:
        """The images decoded from latents (N, D): (N, H, W) or (N, C, H, W) in [0, 1]."""
        return self._call(decode_call(z))

    def reconstruct(
        self,
        images: ImagesLike,
        *,
        sample: bool = False,
        seed: int | None = None,
        invert: bool = False,
    ) -> Floats:
        """Each image encoded and decoded again, from z = μ, or from a random draw with `sample`."""
        return self._call(reconstruct_call(images, sample, seed, invert))

    def anomaly_score(
        self,
        images: ImagesLike,
        *,
        alpha: float | None = None,
        score: str | None = None,
        fdr: bool = False,
        samples: int | None = None,
        seed: int | None = None,
        invert: bool = False,
    ) -> AnomalyScores:
        """Anomaly scores of each image.

        `alpha` is the false-alarm rate on clean images, or with `fdr` the share of false alarms
        among all alarms of this call. `score` is a name listed in `model()["scores"]`. `samples`
        and `seed` are for scores that draw at random.
        """
        return self._call(anomaly_score_call(images, alpha, score, fdr, samples, seed, invert))

    def anomaly_map(self, images: ImagesLike, *, invert: bool = False) -> Floats:
        """Where each image is unusual, in the shape of the images.

        If the bundle has a detector, the map is that of its default score: 0 is the median of clean
        images and 1 their quantile of 99.9 %, the same in each channel. Otherwise it is the squared
        error of each pixel.
        """
        return self._call(anomaly_map_call(images, invert))

    def sample(self, n: int = 1, *, seed: int | None = None) -> Floats:
        """`n` new images. The same `seed` gives the same images."""
        return self._call(sample_call(n, seed))

    def model(self) -> dict[str, Any]:
        """A description of the bundle that the service has in memory."""
        return self._call(describe_call())

    def iter_scores(
        self,
        images: Iterable[ImageLike],
        batch: int = 256,
        *,
        invert: bool = False,
        progress: bool = False,
    ) -> Iterator[ImageScore]:
        """Score a collection of any length in order, with up to `batch` images in memory at a time.

        The images must be all arrays of one shape, or all files. `progress` shows a progress bar.
        """
        with _progress(images, progress) as advance:
            for group in batches(images, batch):
                yield from each(self.anomaly_score(group, invert=invert))
                advance(len(group))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, request: Request[T]) -> T:
        steps = attempts(request.call, self._timeout_s, self._max_attempts)
        outcome: Outcome = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    outcome = None
                    continue
                try:
                    outcome = self._send(step)
                except httpx.TransportError as error:
                    outcome = error
        except StopIteration as done:
            return request.result(done.value)

    def _send(self, step: dict[str, Any]) -> httpx.Response:
        """Make one attempt. The timeout applies to all of it, where httpx's applies to each read.

        Raises `httpx.TransportError`.
        """
        deadline = time.monotonic() + step["timeout"]
        with self._http.stream(**step) as response:
            body = bytearray()
            for chunk in response.iter_raw():
                body += chunk
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the response timed out", request=response.request)
            return httpx.Response(
                response.status_code, headers=response.headers, content=bytes(body)
            )


class AsyncClient(_Base[httpx.AsyncClient]):
    """The client for asyncio, with the calls of `Client`. Use `async with`, or `await aclose()`."""

    _open = httpx.AsyncClient

    async def encode(self, images: ImagesLike, *, invert: bool = False) -> Encoding:
        """See `Client.encode`."""
        return await self._call(await asyncio.to_thread(encode_call, images, invert))

    async def decode(self, z: NDArray[Any]) -> Floats:
        """See `Client.decode`."""
        return await self._call(decode_call(z))

    async def reconstruct(
        self,
        images: ImagesLike,
        *,
        sample: bool = False,
        seed: int | None = None,
        invert: bool = False,
    ) -> Floats:
        """See `Client.reconstruct`."""
        return await self._call(
            await asyncio.to_thread(reconstruct_call, images, sample, seed, invert)
        )

    async def anomaly_score(
        self,
        images: ImagesLike,
        *,
        alpha: float | None = None,
        score: str | None = None,
        fdr: bool = False,
        samples: int | None = None,
        seed: int | None = None,
        invert: bool = False,
    ) -> AnomalyScores:
        """See `Client.anomaly_score`."""
        return await self._call(
            await asyncio.to_thread(
                anomaly_score_call, images, alpha, score, fdr, samples, seed, invert
            )
        )

    async def anomaly_map(self, images: ImagesLike, *, invert: bool = False) -> Floats:
        """See `Client.anomaly_map`."""
        return await self._call(await asyncio.to_thread(anomaly_map_call, images, invert))

    async def sample(self, n: int = 1, *, seed: int | None = None) -> Floats:
        """See `Client.sample`."""
        return await self._call(sample_call(n, seed))

    async def model(self) -> dict[str, Any]:
        """See `Client.model`."""
        return await self._call(describe_call())

    async def iter_scores(
        self,
        images: Iterable[ImageLike],
        batch: int = 256,
        *,
        invert: bool = False,
        progress: bool = False,
    ) -> AsyncIterator[ImageScore]:
        """See `Client.iter_scores`."""
        with _progress(images, progress) as advance:
            for group in batches(images, batch):
                for score in each(await self.anomaly_score(group, invert=invert)):
                    yield score
                advance(len(group))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _call(self, request: Request[T]) -> T:
        steps = attempts(request.call, self._timeout_s, self._max_attempts)
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                return request.result(done.value)
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                outcome = None
                continue
            try:
                async with asyncio.timeout(step["timeout"]):
                    outcome = await self._http.request(**step)
            except httpx.TransportError as error:
                outcome = error
            except TimeoutError:
                outcome = httpx.ReadTimeout("the response timed out")


@contextmanager
def _progress(images: Iterable[ImageLike], show: bool) -> Iterator[Callable[[int], None]]:
    if not show:
        yield lambda _: None
        return
    from rich.progress import Progress  # loaded only when it is needed

    total = len(images) if isinstance(images, Sized) else None
    with Progress() as bar:
        task = bar.add_task("scored", total=total)
        yield lambda n: bar.advance(task, n)
