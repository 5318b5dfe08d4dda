"""The two clients: the same calls, blocking and to be awaited."""

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
    """What both clients are told."""

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
        """Connections to `url` are kept and shared. `api_key` goes with every call.

        `timeout_s` bounds a call with its repeats; the service is told what is left of it, and
        drops work that would come too late.
        """
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self._http: H = self._open(
            base_url=url,
            limits=httpx.Limits(max_connections=max_connections),
            headers=None if api_key is None else {"Authorization": f"Bearer {api_key}"},
        )


class Client(_Base[httpx.Client]):
    """Calls that wait for their answers. May be shared by threads. Close it, or use `with`.

    Methods raise `ProblemError` when the service refuses and `UnreachableError` when there is no
    answer.
    """

    _open = httpx.Client

    def encode(self, images: ImagesLike, *, invert: bool = False) -> Encoding:
        """The posterior of each image; `mu` is the embedding.

        `invert`, here and below, is for files with dark ink on light paper.
        """
        return self._do(encode_call(images, invert))

    def decode(self, z: NDArray[Any]) -> Floats:
        """The images, (N, H, W) or (N, C, H, W) in [0, 1], of latents (N, D)."""
        return self._do(decode_call(z))

    def reconstruct(
        self,
        images: ImagesLike,
        *,
        sample: bool = False,
        seed: int | None = None,
        invert: bool = False,
    ) -> Floats:
        """Each image encoded and decoded again: through z = μ, or with `sample` through a draw."""
        return self._do(reconstruct_call(images, sample, seed, invert))

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
        """How strange each image is.

        `alpha` is the false-alarm rate on clean images, or with `fdr` the share of false alarms
        among all alarms of this call. `score` is a name that `model()["scores"]` lists; `samples`
        and `seed` are for those that draw.
        """
        return self._do(anomaly_score_call(images, alpha, score, fdr, samples, seed, invert))

    def anomaly_map(self, images: ImagesLike, *, invert: bool = False) -> Floats:
        """The squared error of each pixel, shaped as the images."""
        return self._do(anomaly_map_call(images, invert))

    def sample(self, n: int = 1, *, seed: int | None = None) -> Floats:
        """`n` new images. The same `seed` gives the same images."""
        return self._do(sample_call(n, seed))

    def model(self) -> dict[str, Any]:
        """What the service has in memory."""
        return self._do(describe_call())

    def iter_scores(
        self,
        images: Iterable[ImageLike],
        batch: int = 256,
        *,
        invert: bool = False,
        progress: bool = False,
    ) -> Iterator[ImageScore]:
        """Score a collection of any length, `batch` images in memory at a time, in order.

        All are arrays of one shape, or all are files. `progress` shows a bar.
        """
        with _progress(images, progress) as advance:
            for part in batches(images, batch):
                yield from each(self.anomaly_score(part, invert=invert))
                advance(len(part))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _do(self, request: Request[T]) -> T:
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
        """One attempt, its time bounded as a whole: httpx bounds each wait for some bytes."""
        deadline = time.monotonic() + step["timeout"]
        with self._http.stream(**step) as answer:
            body = bytearray()
            for chunk in answer.iter_raw():
                body += chunk
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer takes too long", request=answer.request)
            return httpx.Response(answer.status_code, headers=answer.headers, content=bytes(body))


class AsyncClient(_Base[httpx.AsyncClient]):
    """`Client` for asyncio: the same calls, awaited. Use `async with`, or `await aclose()`."""

    _open = httpx.AsyncClient

    async def encode(self, images: ImagesLike, *, invert: bool = False) -> Encoding:
        """See `Client.encode`."""
        return await self._do(await asyncio.to_thread(encode_call, images, invert))

    async def decode(self, z: NDArray[Any]) -> Floats:
        """See `Client.decode`."""
        return await self._do(decode_call(z))

    async def reconstruct(
        self,
        images: ImagesLike,
        *,
        sample: bool = False,
        seed: int | None = None,
        invert: bool = False,
    ) -> Floats:
        """See `Client.reconstruct`."""
        return await self._do(
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
        return await self._do(
            await asyncio.to_thread(
                anomaly_score_call, images, alpha, score, fdr, samples, seed, invert
            )
        )

    async def anomaly_map(self, images: ImagesLike, *, invert: bool = False) -> Floats:
        """See `Client.anomaly_map`."""
        return await self._do(await asyncio.to_thread(anomaly_map_call, images, invert))

    async def sample(self, n: int = 1, *, seed: int | None = None) -> Floats:
        """See `Client.sample`."""
        return await self._do(sample_call(n, seed))

    async def model(self) -> dict[str, Any]:
        """See `Client.model`."""
        return await self._do(describe_call())

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
            for part in batches(images, batch):
                for score in each(await self.anomaly_score(part, invert=invert)):
                    yield score
                advance(len(part))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _do(self, request: Request[T]) -> T:
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
                outcome = httpx.ReadTimeout("the answer takes too long")


@contextmanager
def _progress(images: Iterable[ImageLike], show: bool) -> Iterator[Callable[[int], None]]:
    if not show:
        yield lambda _: None
        return
    from rich.progress import Progress  # wanted by few, so not loaded for all

    total = len(images) if isinstance(images, Sized) else None
    with Progress() as bar:
        task = bar.add_task("scored", total=total)
        yield lambda n: bar.advance(task, n)
