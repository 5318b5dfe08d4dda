"""From arrays to results: admission, deadline, batch, timings. Knows neither bytes nor weights."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.engine import Decoding, Encoding, Engine, Floats, Reconstructions, ScoreMaps, Scores
from service.batching import Columns, MicroBatcher, Rows, Run
from service.context import RequestContext
from service.errors import DeadlineError, NotReadyError, QueueFullError
from service.metrics import Metrics
from service.readers import unit_pixels
from service.sampling import standard_normal

R = TypeVar("R", bound=Columns)

READY_FOR_S = 5.0
"""A forward pass that worked this lately proves readiness; when it is older, a probe runs one."""

PROBE_TIMEOUT_S = 2.0
"""How long a probe's forward pass may take, with its wait in the queue."""


class Inference:
    """The engine behind its queue. `context` carries a request's deadline, and takes its timings.

    All methods raise `QueueFullError` at once and `DeadlineError` on time.
    """

    def __init__(
        self, engine: Engine, metrics: Metrics, *, max_batch_images: int, max_queue_images: int
    ) -> None:
        self.engine = engine
        self._metrics = metrics
        self._batcher = MicroBatcher(
            max_batch_rows=max_batch_images,
            max_queue_rows=max_queue_images,
            on_batch=self._note_batch,
        )
        metrics.watch_queue(lambda: self._batcher.queued_rows)
        self._last_success = monotonic()  # the engine has been warmed up: that was a forward pass

    async def encode(self, images: Rows, context: RequestContext) -> Encoding:
        """The posterior of each image."""
        return await self._submit(self.engine.encode, images, context)

    async def decode(self, z: Floats, context: RequestContext) -> Decoding:
        """The image of each latent, (N, D)."""
        return await self._submit(self.engine.decode, z, context)

    async def reconstruct(
        self,
        images: Rows,
        context: RequestContext,
        *,
        sample: bool = False,
        seed: int | None = None,
    ) -> Reconstructions:
        """Each image through z = μ, or with `sample` through a draw z ~ q(z|x)."""
        if not sample:
            return await self._submit(self.engine.reconstruct, images, context)
        pixels = unit_pixels(images).reshape(len(images), -1)
        noise = standard_normal((len(images), self.engine.bundle.config.latent_size), seed)
        rows = np.concatenate([pixels, noise], axis=1)
        return await self._submit(self.engine.reconstruct_drawn, rows, context)

    async def score(self, images: Rows, context: RequestContext) -> Scores:
        """How strange each image is."""
        return await self._submit(self.engine.score, images, context)

    async def score_map(self, images: Rows, context: RequestContext) -> ScoreMaps:
        """How strange each image is, and where."""
        return await self._submit(self.engine.score_map, images, context)

    async def check_ready(self) -> None:
        """Return if a real forward pass worked lately, running one if need be.

        Raises `NotReadyError` with the reason.
        """
        if monotonic() - self._last_success < READY_FOR_S:
            return
        image = np.zeros((1, self.engine.bundle.config.pixels), dtype=np.uint8)
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._batcher.submit(self.engine.score, image)
        except (TimeoutError, QueueFullError) as error:
            if monotonic() - self._last_success >= READY_FOR_S:  # busy is ready, stuck is not
                raise NotReadyError(f"no forward pass within {PROBE_TIMEOUT_S:g} s") from error
        except Exception as error:
            raise NotReadyError(f"a forward pass failed: {type(error).__name__}") from error

    def close(self) -> None:
        """End the inference thread, after the batch that runs."""
        self._batcher.close()

    async def _submit(self, run: Run[R], rows: NDArray[Any], context: RequestContext) -> R:
        try:
            async with asyncio.timeout(context.time_left_s):
                done = await self._batcher.submit(run, rows)
        except TimeoutError as error:
            raise DeadlineError(
                f"no answer within the request's {context.timeout_s:g} s"
            ) from error
        context.queue_s += done.queue_s
        context.infer_s += done.infer_s
        return done.result

    def _note_batch(self, images: int, seconds: float) -> None:
        self._last_success = monotonic()
        self._metrics.observe_batch(images, seconds)
