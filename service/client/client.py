"""The blocking and the asynchronous client, with the same calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, Self, TypeVar

import httpx
from numpy.typing import NDArray

from service.client.addresses import authorization, check_address
from service.client.calls import (
    AnomalyScores,
    Encoding,
    Floats,
    ImageScore,
    Outcome,
    Pause,
    Request,
    anomaly_map_call,
    anomaly_map_png_call,
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
from service.client.images import ImagesLike, Tensor, count

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

        Raises `ValueError` for a `url` that is not http:// or https://, and for a key that no
        header can carry.
        """
        self._address = check_address(url)
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self._http: H = self._open(
            base_url=url,
            limits=httpx.Limits(max_connections=max_connections),
            headers=authorization(api_key),
        )


class Client(_Base[httpx.Client]):
    """The blocking client. Threads can share it. Close it, or use `with`.

    Methods raise `ProblemError` if the service refuses a request, and `UnreachableError` if there
    is no response. What could be a mistake about an image file is an `ImageWarning`; results of
    `anomaly_score` and `iter_scores` have its text in `warnings`, too.
    """

    _open = httpx.Client

    def encode(
        self, images: ImagesLike, *, invert: bool = False, bits: int | None = None
    ) -> Encoding:
        """The posterior of each image. `mu` is the embedding.

        Here and in other methods, `invert` is for dark ink on light paper, and `bits` is how many
        bits 16-bit files use, such as 12 for a 12-bit camera.
        """
        return self._call(encode_call(images, invert, bits))

    def decode(self, z: NDArray[Any] | Tensor) -> Floats:
        """The images decoded from latents (N, D): (N, H, W) or (N, C, H, W) in [0, 1]."""
        return self._call(decode_call(z))

    def reconstruct(
        self,
        images: ImagesLike,
        *,
        sample: bool = False,
        seed: int | None = None,
        invert: bool = False,
        bits: int | None = None,
    ) -> Floats:
        """Each image encoded and decoded again, from z = μ, or from a random draw with `sample`."""
        return self._call(reconstruct_call(images, sample, seed, invert, bits))

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
        bits: int | None = None,
    ) -> AnomalyScores:
        """Anomaly scores of each image.

        `alpha` is the false-alarm rate on clean images, or with `fdr` the share of false alarms
        among all alarms of this call. `score` is a name listed in `model()["scores"]`. `samples`
        and `seed` are for scores that draw at random.
        """
        return self._call(
            anomaly_score_call(images, alpha, score, fdr, samples, seed, invert, bits)
        )

    def anomaly_map(
        self,
        images: ImagesLike,
        *,
        score: str | None = None,
        invert: bool = False,
        bits: int | None = None,
    ) -> Floats:
        """Where each image is unusual, in the shape of the images.

        The map of a score of a detector has 0 at the median of clean images and 1 at their quantile
        of 99.9 %, the same in each channel. The map of any other score is the squared error of each
        pixel. `score` is a name listed in `model()["scores"]`; without one it is the default score.
        """
        return self._call(anomaly_map_call(images, score, invert, bits))

    def anomaly_map_png(
        self,
        images: ImagesLike,
        *,
        score: str | None = None,
        scale: int = 1,
        invert: bool = False,
        bits: int | None = None,
    ) -> bytes:
        """The map drawn over the image, as a PNG whose pixels are `scale` times as large.

        Of several images it is one sheet.
        """
        return self._call(anomaly_map_png_call(images, score, scale, invert, bits))

    def sample(self, n: int = 1, *, seed: int | None = None, temperature: float = 1.0) -> Floats:
        """`n` new images. The same `seed` gives the same images.

        `temperature` is the standard deviation of the draws, 0 to 10.
        """
        return self._call(sample_call(n, seed, temperature))

    def model(self) -> dict[str, Any]:
        """A description of the bundle that the service has in memory."""
        return self._call(describe_call())

    def iter_scores(
        self,
        images: ImagesLike,
        batch: int = 256,
        *,
        alpha: float | None = None,
        score: str | None = None,
        invert: bool = False,
        bits: int | None = None,
        progress: bool = False,
    ) -> Iterator[ImageScore]:
        """Score a collection of any length in order, with up to `batch` images in memory at a time.

        The images must be all arrays of one shape, or all files. `alpha` and `score` are as in
        `anomaly_score`. `progress` shows a progress bar.
        """
        with _progress(images, progress) as advance:
            for group in batches(images, batch):
                found = self.anomaly_score(
                    group, alpha=alpha, score=score, invert=invert, bits=bits
                )
                yield from each(found)
                advance(len(group))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, request: Request[T]) -> T:
        steps = attempts(request.call, self._address, self._timeout_s, self._max_attempts)
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
            return request.result(done.value, self._address)

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

    async def encode(
        self, images: ImagesLike, *, invert: bool = False, bits: int | None = None
    ) -> Encoding:
        """See `Client.encode`."""
        return await self._call(await asyncio.to_thread(encode_call, images, invert, bits))

    async def decode(self, z: NDArray[Any] | Tensor) -> Floats:
        """See `Client.decode`."""
        return await self._call(decode_call(z))

    async def reconstruct(
        self,
        images: ImagesLike,
        *,
        sample: bool = False,
        seed: int | None = None,
        invert: bool = False,
        bits: int | None = None,
    ) -> Floats:
        """See `Client.reconstruct`."""
        return await self._call(
            await asyncio.to_thread(reconstruct_call, images, sample, seed, invert, bits)
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
        bits: int | None = None,
    ) -> AnomalyScores:
        """See `Client.anomaly_score`."""
        return await self._call(
            await asyncio.to_thread(
                anomaly_score_call, images, alpha, score, fdr, samples, seed, invert, bits
            )
        )

    async def anomaly_map(
        self,
        images: ImagesLike,
        *,
        score: str | None = None,
        invert: bool = False,
        bits: int | None = None,
    ) -> Floats:
        """See `Client.anomaly_map`."""
        return await self._call(
            await asyncio.to_thread(anomaly_map_call, images, score, invert, bits)
        )

    async def anomaly_map_png(
        self,
        images: ImagesLike,
        *,
        score: str | None = None,
        scale: int = 1,
        invert: bool = False,
        bits: int | None = None,
    ) -> bytes:
        """See `Client.anomaly_map_png`."""
        return await self._call(
            await asyncio.to_thread(anomaly_map_png_call, images, score, scale, invert, bits)
        )

    async def sample(
        self, n: int = 1, *, seed: int | None = None, temperature: float = 1.0
    ) -> Floats:
        """See `Client.sample`."""
        return await self._call(sample_call(n, seed, temperature))

    async def model(self) -> dict[str, Any]:
        """See `Client.model`."""
        return await self._call(describe_call())

    async def iter_scores(
        self,
        images: ImagesLike,
        batch: int = 256,
        *,
        alpha: float | None = None,
        score: str | None = None,
        invert: bool = False,
        bits: int | None = None,
        progress: bool = False,
    ) -> AsyncIterator[ImageScore]:
        """See `Client.iter_scores`."""
        with _progress(images, progress) as advance:
            for group in batches(images, batch):
                found = await self.anomaly_score(
                    group, alpha=alpha, score=score, invert=invert, bits=bits
                )
                for scored in each(found):
                    yield scored
                advance(len(group))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _call(self, request: Request[T]) -> T:
        steps = attempts(request.call, self._address, self._timeout_s, self._max_attempts)
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                return request.result(done.value, self._address)
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
def _progress(images: ImagesLike, show: bool) -> Iterator[Callable[[int], None]]:
    if not show:
        yield lambda _: None
        return
    from rich.progress import Progress  # loaded only when it is needed

    with Progress() as bar:
        task = bar.add_task("scored", total=count(images))
        yield lambda n: bar.advance(task, n)
