"""The network as the service sees it: numpy in, numpy out.

>>> from model.bundle.bundle import find_bundle, load_bundle
>>> engine = Engine(load_bundle(find_bundle("mnist")), device="cpu")
>>> engine.score(np.zeros((2, 1, 28, 28), dtype=np.uint8)).mse.shape
(2,)
"""

from __future__ import annotations

import math
import timeit
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle.bundle import Bundle
from model.bundle.self_test import SelfTest, probe_images
from model.engine.device import choose_backend, resolve_device
from model.engine.rows import Rows, write_scaled
from model.results import Decoding, Draws, Encoding, Floats, Reconstructions, ScoreMaps, Scores
from model.scores.calibration import DEFAULT_DRAWS
from model.scores.detected import DETECTED_SCORES
from model.scores.sampled import SAMPLED_SCORES, draws_per_row, score_names

QUICK_S: Final = 0.0005
"""A pass this short holds others up for less time than handing it to a thread would."""


class Engine:
    """A bundle's network on a device, with its scores, its calibration and its self-test.

    Computes through a `model.engine.backend.Backend`, whose contract covers the arrays that go in
    and come out: one call at a time, results that belong to the caller, N rows in and N rows out in
    the same order. Matrix products are computed in `dtype`, one of
    `model.scores.calibration.DTYPES`; inputs, results and scores are float32. `threads` bounds the
    cores that one pass uses, and torch applies it to the whole process.

    Raises `DeviceError` for a device that the machine does not have, and `BundleError` for ONNX
    graphs that do not fit the network.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        threads: int | None = None,
        dtype: str = "float32",
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.bundle = bundle
        self.dtype = dtype
        self._backend = choose_backend(bundle, resolve_device(device), dtype)
        self.calibration = bundle.calibration and bundle.calibration.of_dtype(dtype)
        """The bundle's calibration of scores computed in `dtype`, if it has one."""
        self.scores = score_names(
            bundle.statistics, bundle.pixel_variance, detected=bundle.detector is not None
        )
        """Names of all scores on offer; the first is the default."""
        self.scaled_maps: tuple[str, ...] = () if bundle.detector is None else DETECTED_SCORES
        """Those of `scores` whose map is on the scale of clean images."""
        self.sampled_scores: tuple[str, ...] = (
            () if bundle.pixel_variance is None else tuple(SAMPLED_SCORES)
        )
        """Those of `scores` that `sampled_score` computes; the others are computed by `score`."""
        self.quick_images = 0
        """Largest batch whose pass may run on an event loop, as measured by `warm_up`. Always 0 on
        a GPU."""
        self.probe = probe_images(bundle.config)
        """An image, (1, C·H·W), whose MSE, KL and scores by the detector are known."""

    @property
    def device(self) -> str:
        """The device, for people."""
        return self._backend.name

    @property
    def runtime(self) -> str:
        """What computes the network and its detector there, for people."""
        return self._backend.runtime

    @property
    def best_batch(self) -> int:
        """Images in one pass from which on larger batches are no faster per image."""
        return self._backend.preferred_batch

    def is_right(self, scores: Scores, name: str | None = None) -> bool:
        """Whether `score(probe, name)` may have given these scores.

        MSE, KL and the scores of a detector have to agree with the known ones, within tolerance.
        Other scores, which no bundle records, have to be finite.
        """
        computed = SelfTest(float(scores.mse[0]), float(scores.kl[0]))
        return self._self_test.agrees(computed, self.dtype) and self._self_test.agrees_on(
            name or self.scores[0], float(scores.score[0])
        )

    @cached_property
    def _self_test(self) -> SelfTest:
        """As recorded. What an older bundle does not record, torch computes from the weights."""
        recorded = self.bundle.self_test
        if recorded is None:
            return self.bundle.computed_self_test()
        if self.bundle.detector is not None and recorded.detector is None:
            return recorded._replace(detector=self.bundle.computed_self_test().detector)
        return recorded

    def warm_up(self, batch_images: int) -> None:
        """Run every kind of pass, so that no client waits for what only the first one needs.

        `batch_images` is the largest batch to come. Sets `quick_images`.
        """
        for n in self._backend.prepare(batch_images):
            self._warm_up_batch(n)
        if self._backend.may_run_inline:
            self.quick_images = self._max_images_within(QUICK_S, batch_images)

    def _warm_up_batch(self, n: int) -> None:
        config = self.bundle.config
        for dtype in self._backend.image_dtypes:
            images = np.zeros((n, config.pixels), dtype)
            self.encode(images)
            self.reconstruct(images)
            self.score_map(images)
            for name in self.scores:
                # The detector's scores are one pass, the same for all of them.
                if name not in (*self.sampled_scores, *self.scaled_maps[1:]):
                    self.score(images, name)
        self.decode(np.zeros((n, config.latent_size), dtype=np.float32))
        self.reconstruct_drawn(np.zeros((n, config.pixels + config.latent_size), dtype=np.float32))
        if self.sampled_scores:
            width = config.pixels + DEFAULT_DRAWS * config.latent_size
            self.draw(np.zeros((n, width), dtype=np.float32))

    def _max_images_within(self, seconds: float, limit: int) -> int:
        """The largest power of two, up to `limit`, of images that are scored within `seconds`."""
        n = 0
        while (candidate := max(1, 2 * n)) <= limit:
            images = np.full((candidate, self.bundle.config.pixels), 128, dtype=np.uint8)
            # The fastest of five: other work on the machine makes a pass slower, never faster.
            if min(timeit.repeat(lambda: self.score(images), number=1, repeat=5)) > seconds:  # noqa: B023 - called at once
                break
            n = candidate
        return n

    def encode(self, images: Rows) -> Encoding:
        """The posterior N(μ, diag σ²) of each image: μ and σ, (N, D) each."""
        return self._backend.encode(images)

    def decode(self, z: Rows) -> Decoding:
        """The image of each latent: (N, D) to (N, C, H, W), in [0, 1]."""
        return self._backend.decode(z)

    def reconstruct(self, images: Rows) -> Reconstructions:
        """Each image encoded and decoded at z = μ, (N, C, H, W), and the MSE, (N,)."""
        return self._backend.reconstruct(images)

    def score(self, images: Rows, name: str | None = None) -> Scores:
        """The score `name` of each image, its MSE and its KL in nats, (N,) each.

        `name` is one of `scores` and not of `sampled_scores`; the default score if None. Raises
        `KeyError` for others.
        """
        return self._backend.score(images, name or self.scores[0])

    def score_map(self, images: Rows, name: str | None = None) -> ScoreMaps:
        """As `score`, with the map of the score, (N, C, H, W).

        That of the scores in `scaled_maps` is on the scale of clean images, see `Detector`; that of
        the others is the squared error of each pixel.
        """
        return self._backend.score_map(images, name or self.scores[0])

    def reconstruct_drawn(self, rows: Rows) -> Reconstructions:
        """Each image encoded and decoded at z = μ + σ·ε, (N, C, H, W), and the MSE, (N,).

        `rows` are made by `reconstruct_rows`.
        """
        return self._backend.reconstruct_drawn(rows)

    def draw(self, rows: Rows, draws: int = DEFAULT_DRAWS) -> Draws:
        """The likelihood of each row's image given each of the row's K = `draws` draws.

        `rows`, R of them, are made by `draw_rows`. Likelihoods are (R, K), in nats. Raises
        `ValueError` for a bundle without a pixel variance, which has no `sampled_scores`.
        """
        return self._backend.draw(rows, draws)

    def sampled_score(self, name: str, draws: Draws, noise_shape: tuple[int, ...]) -> Floats:
        """The sampled score `name`, (N,), from `draw` of the rows of noise (N, K, D).

        Raises `KeyError` for a name that is not one of `sampled_scores`.
        """
        n, count, _ = noise_shape
        likelihoods, weights = (
            values.reshape(n, -1)[:, :count] for values in (draws.log_likelihood, draws.log_weight)
        )
        return SAMPLED_SCORES[name](likelihoods, weights)

    def draw_rows(self, images: NDArray[Any], noise: Floats) -> Floats:
        """Rows for `draw`, from N images and the noise ε of their draws, (N, K, D).

        A row is an image's P pixels, then the ε of `draws_per_row(K)` draws: an image with more
        draws than that has several consecutive rows, so that no row takes long. The last of them is
        filled up with zeros.
        """
        n, draws, latent_size = noise.shape
        per_row = draws_per_row(draws)
        rows = math.ceil(draws / per_row)
        padded = np.zeros((n, rows * per_row, latent_size), dtype=np.float32)
        padded[:, :draws] = noise
        return self._rows(images, padded.reshape(n, rows, per_row * latent_size))

    def reconstruct_rows(self, images: NDArray[Any], noise: Floats) -> Floats:
        """Rows for `reconstruct_drawn`, (N, P + D), from N images and one ε for each, (N, D).

        Pixels and noise share a row because a request queues as one array.
        """
        return self._rows(images, noise[:, None])

    def _rows(self, images: NDArray[Any], noise: Floats) -> Floats:
        """Each image before each of its R parts of noise, (N, R, W): (N·R, P + W)."""
        n, rows, width = noise.shape
        pixels = images.reshape(n, 1, self.bundle.config.pixels)
        combined = np.empty((n, rows, pixels.shape[2] + width), dtype=np.float32)
        write_scaled(pixels, combined[..., :-width])
        combined[..., -width:] = noise
        return combined.reshape(n * rows, -1)
