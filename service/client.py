"""A client for Python: numpy arrays, PIL images or paths in, typed results out.

>>> from service.client import Client
>>> with Client("http://localhost:8000") as client:  # doctest: +SKIP
...     client.anomaly_score(["a.png", "b.png"]).score
array([0.0031, 0.0402], dtype=float32)

Imports neither torch nor fastapi. Arrays travel as .npy, files as they are. Every call is safe to
repeat, so a call that fails for lack of a connection or of room (503) is repeated with growing
pauses, or after as long as the service asks for, and never past the call's deadline.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Self, TypeVar

import httpx
from numpy.typing import NDArray

from service.client_calls import (
    AnomalyScores,
    ClientError,
    Encoding,
    Floats,
    ImageLike,
    ImageScore,
    ImagesLike,
    Outcome,
    Pause,
    ProblemError,
    Request,
    UnreachableError,
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

__all__ = [
    "AnomalyScores",
    "AsyncClient",
    "Client",
    "ClientError",
    "Encoding",
    "ImageScore",
    "ProblemError",
    "UnreachableError",
]

T = TypeVar("T")
H = TypeVar("H")

KEY_VARIABLE: Final = "VAE_API_KEY"
"""For the command line: a flag could be seen by other users of the machine."""


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


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m service.client score *.png`. Returns 0, or 1 if an image could not be scored."""
    parser = argparse.ArgumentParser(
        prog="python -m service.client",
        description="Ask a running service.",
        epilog=f"An API key is read from the environment: {KEY_VARIABLE}.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    score = commands.add_parser("score", help="score image files, a line each")
    score.add_argument("files", nargs="+", type=Path, metavar="FILE")
    score.add_argument("--url", default="http://localhost:8000", help="default: %(default)s")
    score.add_argument("--invert", action="store_true", help="for dark ink on light paper")
    score.add_argument("--json", action="store_true", help="a JSON object a line, not a table")
    arguments = parser.parse_args(argv)
    width = max(len(str(path)) for path in arguments.files)
    if not arguments.json:
        print(f"{'file':{width}}  {'score':>9}  {'p-value':>8}  anomaly  {'mse':>9}  {'kl':>7}")
    failed = False
    with Client(arguments.url, api_key=os.environ.get(KEY_VARIABLE)) as client:
        for path in arguments.files:
            # One by one, so that a broken file spoils no other's line.
            try:
                (found,) = each(client.anomaly_score([path], invert=arguments.invert))
            except (ClientError, OSError) as error:
                failed = True
                print(f"{path}: {error}", file=sys.stderr)
                if isinstance(error, UnreachableError):
                    break
                continue
            if arguments.json:
                print(json.dumps({"file": str(path), **found._asdict()}))
            else:
                print(f"{path!s:{width}}  {_columns(found)}")
    return 1 if failed else 0


def _columns(found: ImageScore) -> str:
    p_value = "–" if found.p_value is None else f"{found.p_value:.4f}"
    anomaly = {None: "–", True: "yes", False: "no"}[found.is_anomaly]
    return f"{found.score:9.5f}  {p_value:>8}  {anomaly:>7}  {found.mse:9.5f}  {found.kl:7.2f}"


if __name__ == "__main__":
    sys.exit(main())
