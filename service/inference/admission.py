"""Arrays in, results out: rate limits, queue, deadlines and timings of forward passes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.engine.engine import Engine
from model.results import Decoding, Encoding, Floats, Reconstructions
from model.scores.calibration import DEFAULT_DRAWS, benjamini_hochberg
from model.scores.sampled import draws_per_row, max_draw_rows
from service.errors import QueueFullError
from service.inference.batching import MicroBatcher
from service.inference.jobs import Columns, Rows, Run
from service.inference.recent import RecentImages
from service.request import RequestContext
from service.sampling import standard_normal
from service.telemetry.metrics import Metrics

R = TypeVar("R", bound=Columns)

CLOSE_S = 10.0
"""How long the current batch may take to finish when the service stops."""

THRESHOLD_CACHE_SIZE = 256
"""Pairs of score and alpha. Bounded because with `fdr` almost every request has its own alpha."""


class ScoresWithPValues(NamedTuple):
    """`model.results.Scores` with p-values."""

    score: Floats  # (N,)
    mse: Floats  # (N,)
    kl: Floats  # (N,)
    p_value: NDArray[np.float64]  # (N,)


class AnomalyScores(NamedTuple):
    """The anomaly score of each image, and what it means."""

    score: Floats  # (N,)
    p_value: NDArray[np.float64] | None  # (N,); None without calibration
    is_anomaly: NDArray[np.bool_] | None  # (N,); None without calibration
    mse: Floats  # (N,), at z = μ
    kl: Floats  # (N,), nats
    threshold: float | None
    """The score above which an image is an anomaly; None without calibration."""
    anomaly_map: Floats | None = None  # (N, C, H, W), see `Engine.score_map`; if requested


class ScoreOptions(NamedTuple):
    """How a request wants its images scored."""

    name: str
    """One of the engine's scores."""
    alpha: float
    """False-alarm rate, in (0, 1)."""
    fdr: bool = False
    """Whether alpha bounds the false discovery rate of the request, not the false-alarm rate."""
    map: bool = False
    """Whether to return the map of each image."""
    draws: int = DEFAULT_DRAWS
    """Draws per image, K, of a sampled score."""
    seed: int | None = None
    """Seed of the draws; None takes a new one."""
    counts: bool = True
    """Whether the images count in metrics, and among the recent ones."""


class Inference:
    """The engine behind its queue.

    The methods for requests take the deadline from `context` and add their timings to it. They
    raise `RateLimitError` and `QueueFullError` at once, and `TimeoutError` at the deadline.
    """

    def __init__(
        self,
        engine: Engine,
        batcher: MicroBatcher,
        metrics: Metrics,
        recent: RecentImages | None = None,
    ) -> None:
        self.engine = engine
        self._batcher = batcher
        self._metrics = metrics
        self._recent = recent
        self.inline_images = engine.quick_images
        """Batches of up to this many images may run on the event loop."""
        self._calibration = engine.calibration
        if self._calibration is not None:  # most requests share a few alphas
            self._threshold = lru_cache(THRESHOLD_CACHE_SIZE)(self._calibration.threshold)
        self._runs: dict[tuple[Any, ...], Run[Any]] = {}

    async def encode(self, images: Rows, context: RequestContext) -> Encoding:
        """The posterior N(μ, diag σ²) of each image."""
        context.images = len(images)
        return await self._submit(self.engine.encode, images, context)

    async def decode(self, z: Floats, context: RequestContext) -> Decoding:
        """Decode latents, (N, D), to images."""
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
        """Reconstruct each image through z = μ, or with `sample` through a draw z ~ q(z|x)."""
        context.images = len(images)
        if not sample:
            return await self._submit(self.engine.reconstruct, images, context)
        shape = (len(images), self.engine.bundle.config.latent_size)
        self._batcher.check_capacity(len(images), 0)
        rows = self.engine.reconstruct_rows(images, standard_normal(shape, seed))
        return await self._submit(self.engine.reconstruct_drawn, rows, context)

    async def score(
        self, images: Rows, context: RequestContext, options: ScoreOptions
    ) -> AnomalyScores:
        """Score each image, with p-values and a threshold where the score is calibrated.

        With a sampled score, an image takes one row in the queue per `DEFAULT_DRAWS` draws.
        """
        context.images = len(images)
        name = options.name
        maps: list[Floats] = []
        is_kept = self._recent is None or not options.counts
        if name in self.engine.sampled_scores:
            shape = (len(images), options.draws, self.engine.bundle.config.latent_size)
            self._batcher.check_capacity(
                len(images) * math.ceil(options.draws / draws_per_row(options.draws)), 0
            )
            rows = self.engine.draw_rows(images, standard_normal(shape, options.seed))
            run = self._run_for(self.engine.draw, draws=draws_per_row(options.draws))
            max_rows = max_draw_rows(self._batcher.max_batch_rows, self.engine.bundle.config.pixels)
            draws = await self._submit(run, rows, context, inline=False, max_rows=max_rows)
            score = self.engine.sampled_score(name, draws, shape)
            # All rows of an image agree on these.
            first = slice(None, None, len(rows) // len(images))
            mse, kl = draws.mse[first], draws.kl[first]
            maps = [draws.anomaly_map[first]] if options.map else []
            # Calibrated with this number of draws; with another, the scores differ.
            if options.draws == DEFAULT_DRAWS:
                p_value = self._p_values(name, score, count=options.counts)
            else:
                p_value = None
        elif options.map:
            mapped = self._run_for(self.engine.score_map, name=name)
            score, mse, kl, *maps = await self._submit(mapped, images, context)
            p_value = self._p_values(name, score, count=options.counts)
        elif options.counts and self.is_calibrated(name):
            calibrated = self.score_run(name)
            score, mse, kl, p_value = await self._submit(calibrated, images, context)
            is_kept = True  # by the batch
        else:
            plain = self._run_for(self.engine.score, name=name)
            score, mse, kl = await self._submit(plain, images, context)
            p_value = self._p_values(name, score, count=options.counts)
        if not is_kept:
            await asyncio.to_thread(self._keep, name, [images], score, p_value)
        is_anomaly, threshold = self._classify(name, p_value, options)
        return AnomalyScores(score, p_value, is_anomaly, mse, kl, threshold, *maps)

    async def probe(self, deadline: float) -> bool:
        """Whether a forward pass of the probe image gives its known scores, the default one too.

        The probe is queued even if the queue is full, and never runs on the event loop, which a
        hanging pass would block. Raises `TimeoutError` at `deadline`, and what the engine raises.
        """
        name = self.engine.scores[0]
        # Not `_run_for`: a batch that the probe shares with requests may run on the event loop.
        run = partial(self.engine.score, name=name)
        done = await self._batcher.submit(run, self.engine.probe, deadline, always=True)
        return self.engine.is_right(done.result, name)

    def close(self, timeout_s: float = CLOSE_S) -> bool:
        """End the inference thread after the current batch, and return whether it ended in time."""
        return self._batcher.close(timeout_s)

    def score_run(self, name: str) -> Run[ScoresWithPValues]:
        """What scores a batch by a calibrated score."""
        return self._run_for(self._score_with_p_values, name=name)

    def threshold(self, name: str, alpha: float) -> float | None:
        """The score above which an image is an anomaly; None if no score is.

        The score must be calibrated.
        """
        return self._threshold(name, alpha)

    def is_calibrated(self, name: str) -> bool:
        """Whether a score has p-values."""
        return self._calibration is not None and name in self._calibration.scores

    def _p_values(
        self, name: str, score: Floats, *, count: bool = True
    ) -> NDArray[np.float64] | None:
        """The p-values of scores, (N,), wherever they come from; None without calibration."""
        if self._calibration is None or name not in self._calibration.scores:
            return None
        p_values = self._calibration.p_values(name, score)
        if count:
            self._metrics.p_values.add(p_values)
        return p_values

    def _score_with_p_values(self, images: Sequence[Rows], name: str) -> ScoresWithPValues:
        """Score a batch and compute its p-values at once, which is faster than per request."""
        scores = self.engine.score(images, name=name)
        p_values = self._p_values(name, scores.score)
        assert p_values is not None  # noqa: S101 - for mypy: only called for calibrated scores
        if self._recent is not None:
            self._keep(name, images, scores.score, p_values)
        return ScoresWithPValues(*scores, p_values)

    def _keep(
        self,
        name: str,
        parts: Sequence[Rows],
        score: Floats,
        p_value: NDArray[np.float64] | None,
    ) -> None:
        """Keep the newest images, if any are kept."""
        if self._recent is not None:
            shape = self.engine.bundle.config.image_shape
            self._recent.add(name, parts, shape, score, p_value)

    def _classify(
        self, name: str, p_value: NDArray[np.float64] | None, options: ScoreOptions
    ) -> tuple[NDArray[np.bool_] | None, float | None]:
        """Which images are anomalies, (N,), and the threshold. Both are None without p-values."""
        if self._calibration is None or p_value is None:
            return None, None
        is_anomaly = p_value <= options.alpha
        if options.counts:
            self._metrics.count_scored(len(p_value), int(np.count_nonzero(is_anomaly)))
        if not options.fdr:
            return is_anomaly, self._threshold(name, options.alpha)
        cut = benjamini_hochberg(p_value, options.alpha)
        return p_value <= cut, self._threshold(name, cut)

    def _run_for(self, method: Callable[..., R], **option: str | int) -> Run[R]:
        """The engine's method with an option filled in.

        Equal arguments give the same object: the batcher joins only rows with the same `run`.
        """
        return self._runs.setdefault((method, *option.items()), partial(method, **option))

    async def _submit(
        self,
        run: Run[R],
        rows: NDArray[Any],
        context: RequestContext,
        *,
        inline: bool = True,
        max_rows: int | None = None,
    ) -> R:
        inline_rows = self.inline_images if inline else 0
        context.charge()
        try:
            done = await self._batcher.submit(
                run,
                rows,
                context.deadline,
                inline_rows=inline_rows,
                max_rows=max_rows,
                on_pass=context.on_pass,
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
