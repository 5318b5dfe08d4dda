"""From arrays to results: admission, deadline, batch, timings. Knows neither bytes nor weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.engine.engine import Engine
from model.results import Decoding, Encoding, Floats, Reconstructions
from model.scores.calibration import DEFAULT_DRAWS, benjamini_hochberg
from model.scores.sampled import draws_a_row, most_drawn_rows
from service.errors import QueueFullError
from service.inference.batching import Columns, MicroBatcher, Rows, Run
from service.request import RequestContext
from service.sampling import standard_normal
from service.telemetry.metrics import Metrics

R = TypeVar("R", bound=Columns)

CLOSE_S = 10.0
"""For the batch that runs at the end of the service."""

KEPT_THRESHOLDS = 256
"""Pairs of score and alpha whose threshold is kept; with `fdr` each request has another alpha."""


class Compared(NamedTuple):
    """`engine.Scores` with their p-values."""

    score: Floats  # (N,)
    mse: Floats  # (N,)
    kl: Floats  # (N,)
    p_value: NDArray[np.float64]  # (N,)


class AnomalyScores(NamedTuple):
    """How strange each image is, and whether that is an anomaly."""

    score: Floats  # (N,)
    p_value: NDArray[np.float64] | None  # (N,); None without calibration
    is_anomaly: NDArray[np.bool_] | None  # (N,); None without calibration
    mse: Floats  # (N,), at z = μ
    kl: Floats  # (N,), nats
    threshold: float | None
    """The score above which an image is an anomaly."""
    error_map: Floats | None = None  # (N, C, H, W), squared errors at z = μ, where asked for


class ScoreOptions(NamedTuple):
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

    All methods raise `RateLimitError` and `QueueFullError` at once, and `TimeoutError` at the
    deadline.
    """

    def __init__(self, engine: Engine, batcher: MicroBatcher, metrics: Metrics) -> None:
        self.engine = engine
        self._batcher = batcher
        self._metrics = metrics
        self._inline_images = engine.quick_images
        self._calibration = engine.calibration
        if self._calibration is not None:  # asked for the same few again and again
            self._threshold = lru_cache(KEPT_THRESHOLDS)(self._calibration.threshold)
        self._runs: dict[tuple[Any, ...], Run[Any]] = {}

    async def encode(self, images: Rows, context: RequestContext) -> Encoding:
        """The posterior of each image."""
        context.images = len(images)
        return await self._submit(self.engine.encode, images, context)

    async def decode(self, z: Floats, context: RequestContext) -> Decoding:
        """The image of each latent, (N, D)."""
        context.images = len(z)
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
        context.images = len(images)
        if not sample:
            return await self._submit(self.engine.reconstruct, images, context)
        shape = (len(images), self.engine.bundle.config.latent_size)
        self._batcher.check_capacity(len(images), 0)
        rows = self.engine.reconstruct_rows(images, standard_normal(shape, seed))
        return await self._submit(self.engine.reconstruct_drawn, rows, context)

    async def score(
        self, images: Rows, context: RequestContext, wanted: ScoreOptions
    ) -> AnomalyScores:
        """How strange each image is, and what that means.

        Of a drawn score, each image takes a row in the queue for every `DEFAULT_DRAWS` draws.
        """
        context.images = len(images)
        name = wanted.name or self.engine.scores[0]
        maps: list[Floats] = []
        if name in self.engine.sampled_scores:
            shape = (len(images), wanted.draws, self.engine.bundle.config.latent_size)
            self._batcher.check_capacity(
                len(images) * math.ceil(wanted.draws / draws_a_row(wanted.draws)), 0
            )
            rows = self.engine.draw_rows(images, standard_normal(shape, wanted.seed))
            run = self._run_of(self.engine.draw, draws=draws_a_row(wanted.draws))
            most = most_drawn_rows(self._batcher.max_batch_rows, self.engine.bundle.config.pixels)
            draws = await self._submit(run, rows, context, inline=False, most_rows=most)
            score = self.engine.sampled_score(name, draws, shape)
            first = slice(None, None, len(rows) // len(images))  # an image's rows agree on these
            mse, kl = draws.mse[first], draws.kl[first]
            maps = [draws.error_map[first]] if wanted.map else []
            # Calibrated at one number of draws, it has other values at another.
            p_value = self._p_values(name, score) if wanted.draws == DEFAULT_DRAWS else None
        elif wanted.map:
            mapped = self._run_of(self.engine.score_map, name=name)
            score, mse, kl, *maps = await self._submit(mapped, images, context)
            p_value = self._p_values(name, score)
        elif self.is_calibrated(name):
            compared = self._run_of(self._score_and_compare, name=name)
            score, mse, kl, p_value = await self._submit(compared, images, context)
        else:
            plain = self._run_of(self.engine.score, name=name)
            score, mse, kl = await self._submit(plain, images, context)
            p_value = None
        is_anomaly, threshold = self._judge(name, p_value, wanted)
        return AnomalyScores(score, p_value, is_anomaly, mse, kl, threshold, *maps)

    async def probe(self, deadline: float) -> bool:
        """Whether a forward pass, in the queue like any other, gives what it is known to give.

        Never on the event loop, which it could hold up, and however full the queue is. Raises
        `TimeoutError` at `deadline`, and what the engine raises.
        """
        run = self._run_of(self.engine.score, name="mse")
        done = await self._batcher.submit(run, self.engine.probe, deadline, always=True)
        return self.engine.is_right(done.result)

    def close(self, timeout_s: float = CLOSE_S) -> bool:
        """End the inference thread, after the batch that runs. Whether it ended in time."""
        return self._batcher.close(timeout_s)

    def is_calibrated(self, name: str) -> bool:
        """Whether a score has p-values."""
        return self._calibration is not None and name in self._calibration.scores

    def _p_values(self, name: str, score: Floats) -> NDArray[np.float64] | None:
        if self._calibration is None or name not in self._calibration.scores:
            return None
        return self._calibration.p_values(name, score)

    def _score_and_compare(self, images: Rows, name: str) -> Compared:
        """A batch's scores and p-values: once for all, not once for each request of one image."""
        found = self.engine.score(images, name=name)
        p_values = self._p_values(name, found.score)
        assert p_values is not None  # noqa: S101 - for mypy: asked for calibrated scores only
        return Compared(*found, p_values)

    def _judge(
        self, name: str, p_value: NDArray[np.float64] | None, wanted: ScoreOptions
    ) -> tuple[NDArray[np.bool_] | None, float | None]:
        """AnomalyScores and the threshold; None, both of them, where there is no calibration."""
        if self._calibration is None or p_value is None:
            return None, None
        strange = p_value <= wanted.alpha
        self._metrics.count_scored(len(p_value), int(np.count_nonzero(strange)))
        if not wanted.fdr:
            return strange, self._threshold(name, wanted.alpha)
        cut = benjamini_hochberg(p_value, wanted.alpha)
        return p_value <= cut, self._threshold(name, cut)

    def _run_of(self, method: Callable[..., R], **option: str | int) -> Run[R]:
        """The engine's method with an option: the same object each time, so that its rows share
        batches."""
        return self._runs.setdefault((method, *option.items()), partial(method, **option))

    async def _submit(
        self,
        run: Run[R],
        rows: NDArray[Any],
        context: RequestContext,
        *,
        inline: bool = True,
        most_rows: int | None = None,
    ) -> R:
        inline_rows = self._inline_images if inline else 0
        if context.quota is not None:
            context.quota.take(context.images)
        try:
            done = await self._batcher.submit(
                run, rows, context.deadline, inline_rows=inline_rows, most_rows=most_rows
            )
        except QueueFullError:
            if context.quota is not None:
                context.quota.refund(context.images)
            raise
        context.reserve_answer(sum(column.nbytes for column in done.result))
        context.queue_s += done.queue_s
        context.infer_s += done.infer_s
        self._metrics.observe_queue_wait(done.queue_s)
        return done.result
