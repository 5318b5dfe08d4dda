"""From arrays to results: admission, deadline, batch, timings. Knows neither bytes nor weights."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.calibration import DEFAULT_DRAWS, benjamini_hochberg
from model.engine import Decoding, Encoding, Engine, Floats, Reconstructions, draws_a_row
from service.batching import Columns, MicroBatcher, Rows, Run
from service.context import RequestContext
from service.errors import DeadlineError, NotReadyError, QueueFullError
from service.metrics import Metrics
from service.sampling import standard_normal

R = TypeVar("R", bound=Columns)

READY_FOR_S = 5.0
"""A forward pass that worked this lately proves readiness; when it is older, a probe runs one."""

PROBE_TIMEOUT_S = 2.0
"""How long a probe's forward pass may take, with its wait in the queue."""


class Verdicts(NamedTuple):
    """How strange each image is, and whether that is an anomaly."""

    score: Floats  # (N,)
    p_value: NDArray[np.float64] | None  # (N,); None without calibration
    is_anomaly: NDArray[np.bool_] | None  # (N,); None without calibration
    mse: Floats  # (N,), at z = μ
    kl: Floats  # (N,), nats
    threshold: float | None
    """The score above which an image is an anomaly."""
    error_map: Floats | None = None  # (N, C, H, W), squared errors at z = μ, where asked for


@dataclass(frozen=True, kw_only=True)
class ScoreWanted:
    """What a request asks of its scores."""

    alpha: float
    name: str | None = None
    """One of the engine's scores; None is its default."""
    fdr: bool = False
    """Bound the false discovery rate over the request by alpha, rather than each false alarm."""
    map: bool = False
    draws: int = DEFAULT_DRAWS
    """K of a drawn score."""
    seed: int | None = None


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
        self._runs: dict[tuple[Any, ...], Run[Any]] = {}
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
        shape = (len(images), self.engine.bundle.config.latent_size)
        rows = self.engine.reconstruct_rows(images, standard_normal(shape, seed))
        return await self._submit(self.engine.reconstruct_drawn, rows, context)

    async def score(self, images: Rows, context: RequestContext, wanted: ScoreWanted) -> Verdicts:
        """How strange each image is, and what that means.

        Of a drawn score, each image takes a row in the queue for every `DEFAULT_DRAWS` draws.
        """
        name = wanted.name or self.engine.scores[0]
        maps: list[Floats] = []
        if name in self.engine.drawn_scores:
            shape = (len(images), wanted.draws, self.engine.bundle.config.latent_size)
            rows = self.engine.draw_rows(images, standard_normal(shape, wanted.seed))
            run = self._run_of(self.engine.draw, draws=draws_a_row(wanted.draws))
            draws = await self._submit(run, rows, context)
            score = self.engine.drawn_score(name, draws, shape)
            first = slice(None, None, len(rows) // len(images))  # an image's rows agree on these
            mse, kl = draws.mse[first], draws.kl[first]
            maps = [draws.error_map[first]] if wanted.map else []
        else:
            method = self.engine.score_map if wanted.map else self.engine.score
            found = await self._submit(self._run_of(method, name=name), images, context)
            score, mse, kl, *maps = found
        p_value, is_anomaly, threshold = self._judge(name, score, wanted)
        return Verdicts(score, p_value, is_anomaly, mse, kl, threshold, *maps)

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

    def _judge(
        self, name: str, score: Floats, wanted: ScoreWanted
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.bool_] | None, float | None]:
        """p-values, verdicts and the threshold; None, all of them, where there is no calibration.

        A drawn score is calibrated at one number of draws, and has other values at another.
        """
        calibration = self.engine.bundle.calibration
        if calibration is None or name not in calibration.scores:
            return None, None, None
        if name in self.engine.drawn_scores and wanted.draws != DEFAULT_DRAWS:
            return None, None, None
        p_value = calibration.p_values(name, score)
        cut = benjamini_hochberg(p_value, wanted.alpha) if wanted.fdr else wanted.alpha
        return p_value, p_value <= cut, calibration.threshold(name, cut)

    def _run_of(self, method: Callable[..., R], **option: str | int) -> Run[R]:
        """The engine's method with an option: the same object each time, so that its rows share
        batches."""
        return self._runs.setdefault((method, *option.items()), partial(method, **option))

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
