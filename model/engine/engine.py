"""The network as the service sees it: numpy in, numpy out.

>>> from model.bundle import find_bundle, load_bundle
>>> engine = Engine(load_bundle(find_bundle("mnist")), device="cpu")
>>> engine.score(np.zeros((2, 1, 28, 28), dtype=np.uint8)).mse.shape
(2,)
"""

from __future__ import annotations

import math
import timeit
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.bundle.bundle import Bundle
from model.bundle.self_test import Known, expected_output, probe_images
from model.engine.cpu import (
    ForwardOutput,
    MlpForward,
    ModuleForward,
    Rows,
    forward,
    joined,
    write_scaled,
)
from model.engine.cuda import C, OomBackoff, Staging, join_columns
from model.engine.device import accelerator_of, describe_device, resolve_device
from model.results import Decoding, Draws, Encoding, Floats, Reconstructions, ScoreMaps, Scores
from model.scores.calibration import DEFAULT_DRAWS
from model.scores.deterministic import mean_squared_error, offered_scores
from model.scores.native import NativeScores, errors_in_c
from model.scores.sampled import (
    SAMPLED_SCORES,
    draw_likelihoods,
    draws_a_row,
    errors_by_torch,
    score_names,
)
from model.vae import Reconstruction

QUICK_S: Final = 0.0005
"""A pass of this length holds others up less than handing it to a thread would."""

CPU_BATCH: Final = 128

GPU_BATCH: Final = 8192
"""Images in one pass from which on more of them gain nothing."""

DRAWN_AT_ONCE: Final = 4096
"""So many latents are decoded at a time where images are drawn again and again."""


class Engine:
    """Holds a bundle's network on a device. One forward pass for a batch, however it is made up.

    Not for several threads at once: callers queue (see `service.inference.batching`). Raises
    `DeviceError` for a device that is not there. `threads` bounds what one pass uses of the CPU;
    torch keeps it for the whole process. Products are computed in `dtype`, one of
    `model.scores.calibration.DTYPES`; what goes in and comes out is float32, and so are the scores.
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
        self._device = resolve_device(device)
        self._network = bundle.network().to(self._device, getattr(torch, dtype))
        self.dtype = dtype
        self.calibration = bundle.calibration and bundle.calibration.of_dtype(dtype)
        """The bundle's, of scores computed in `dtype`."""
        self.quick_images = 0
        """Up to so many, a pass is so short that it may run where others wait for it; found by
        `warm_up`. 0 on a GPU, which may hang."""
        self._accelerator = accelerator_of(self._device)
        self._stagings: dict[str, Staging] = {}
        self._fittings: dict[tuple[Any, ...], OomBackoff[Any]] = {}
        self._most = GPU_BATCH
        on_cpu = self._accelerator is None
        plain = on_cpu and bundle.config.architecture == "mlp" and dtype == "float32"
        self._forward = MlpForward(self._network) if plain else ModuleForward(self._network)
        statistics = bundle.statistics and bundle.statistics.to(self._device)
        self._scores = offered_scores(statistics, bundle.pixel_variance)
        self.sampled_scores: tuple[str, ...] = (
            () if bundle.pixel_variance is None else tuple(SAMPLED_SCORES)
        )
        """Those of `scores` that `sampled_score` gives; the others are `score`'s."""
        self.scores = score_names(bundle.statistics, bundle.pixel_variance)
        """Names of the scores on offer; the first is the default."""
        self._native = NativeScores.of(bundle.config, bundle.statistics) if on_cpu else None
        self._draw_errors = (
            errors_in_c(self._forward.decode) if self._native else errors_by_torch(self._network)
        )
        self._known = bundle.known or expected_output(bundle.network(), bundle.config)
        self.probe = probe_images(bundle.config)
        """An image, (1, C·H·W), whose scores by `mse` are known."""

    @property
    def device(self) -> str:
        """What it runs on, for people."""
        return describe_device(self._device)

    @property
    def best_batch(self) -> int:
        """Images in one pass that make the most of the device."""
        return GPU_BATCH if self._accelerator else CPU_BATCH

    def is_right(self, scores: Scores) -> bool:
        """Whether these are the known scores of `probe`."""
        found = Known(float(scores.mse[0]), float(scores.kl[0]))
        return self._known.agrees(found, self.dtype)

    def warm_up(self, batch_images: int) -> None:
        """Run each kind of pass, so that no client waits for what is done at the first one.

        At batch 1 and `batch_images`; on a GPU at all powers of two up to there.
        """
        config = self.bundle.config
        sizes = {1, batch_images}
        if self._accelerator:
            self._most = batch_images
            sizes |= {1 << power for power in range(batch_images.bit_length())}
        for n in sorted(sizes):
            # On a GPU bytes and floats go their own ways.
            for dtype in (np.uint8, np.float32) if self._accelerator else (np.uint8,):
                images = np.zeros((n, config.pixels), dtype)
                self.encode(images)
                self.reconstruct(images)
                self.score_map(images)
                for name in self._scores:
                    self.score(images, name)
            self.decode(np.zeros((n, config.latent_size), dtype=np.float32))
            self.reconstruct_drawn(
                np.zeros((n, config.pixels + config.latent_size), dtype=np.float32)
            )
            if self.sampled_scores:
                width = config.pixels + DEFAULT_DRAWS * config.latent_size
                self.draw(np.zeros((n, width), dtype=np.float32))
        if self._accelerator is None:
            self.quick_images = self._most_within(QUICK_S, batch_images)

    def _most_within(self, seconds: float, most: int) -> int:
        """The largest power of two, up to `most`, of images that are scored in `seconds`."""
        n = 0
        while (more := max(1, 2 * n)) <= most:
            images = np.full((more, self.bundle.config.pixels), 128, dtype=np.uint8)
            # The fastest of a few: what else runs on the machine makes it look slow, never fast.
            if min(timeit.repeat(lambda: self.score(images), number=1, repeat=5)) > seconds:  # noqa: B023 - it is called at once
                break
            n = more
        return n

    @torch.inference_mode()
    def encode(self, images: Rows) -> Encoding:
        """The posterior N(μ, diag σ²) of each image."""
        if self._accelerator:
            mean, std = np.split(self._staged("encode", self._encoded)(images), 2, axis=1)
            return Encoding(mean, std)
        heads = self._forward(images).heads.copy()  # which the next pass would write over
        posterior = self._network.posterior(torch.from_numpy(heads))
        return Encoding(_numpy(posterior.mean), _numpy(posterior.std))

    @torch.inference_mode()
    def decode(self, z: Rows) -> Decoding:
        """The image that each latent, (N, D), stands for."""
        if self._accelerator:
            size = self.bundle.config.latent_size
            return Decoding(self._shaped(self._staged("decode", self._network.decode, size)(z)))
        latents = self._batch(z, self.bundle.config.latent_size)
        return Decoding(self._images(self._network.decode(latents)))

    @torch.inference_mode()
    def reconstruct(self, images: Rows) -> Reconstructions:
        """Each image encoded and decoded again, through z = μ."""
        if self._accelerator:
            found = self._staged("reconstruct", self._reconstructed)(images)
            return Reconstructions(self._shaped(found[:, :-1]), found[:, -1])
        done = self._forward(images)
        images = self._images(torch.from_numpy(done.logits).sigmoid())
        return Reconstructions(images, self._scored("mse", done).mse)

    @torch.inference_mode()
    def reconstruct_drawn(self, rows: Rows) -> Reconstructions:
        """Each image through a draw z = μ + σ·ε.

        A row, as `reconstruct_rows` makes it, is the C·H·W pixels in [0, 1], then the D numbers of
        ε: the queue holds one array for a request.
        """
        return self._fitted(self._reconstruct_drawn, rows)

    def _reconstruct_drawn(self, rows: Rows) -> Reconstructions:
        pixels, noise = self._pixels_and_noise(rows, 1)
        output = self._network(pixels, noise)
        mse = mean_squared_error(pixels, output)
        return Reconstructions(self._images(output.images), _numpy(mse))

    def score(self, images: Rows, name: str | None = None) -> Scores:
        """How strange each image is, by one of `scores` that is not drawn, or the default."""
        name = name or self.scores[0]
        if self._accelerator:
            with torch.inference_mode():
                run = partial(self._score_columns, name)
                return Scores(*self._staged(f"score {name}", run)(images).T)
        return self._scored(name, self._forward(images))

    @torch.inference_mode()
    def score_map(self, images: Rows, name: str | None = None) -> ScoreMaps:
        """How strange each image is, and where."""
        name = name or self.scores[0]
        if self._accelerator:
            found = self._staged(f"map {name}", partial(self._map_columns, name))(images)
            score, mse, kl = found[:, :3].T
            return ScoreMaps(score, mse, kl, self._shaped(found[:, 3:]))
        done = self._forward(images)
        scores = self._scored(name, done)
        pixels, logits = torch.from_numpy(done.pixels), torch.from_numpy(done.logits)
        return ScoreMaps(*scores, self._images((pixels - logits.sigmoid()).square()))

    @torch.inference_mode()
    def draw(self, rows: Rows, draws: int = DEFAULT_DRAWS) -> Draws:
        """How likely each image is given each of its row's `draws` draws z = μ + σ·ε.

        A row is as `draw_rows` makes it. For a bundle with a pixel variance, where `sampled_scores`
        has names; raises `ValueError` for others.
        """
        return self._fitted(self._draw, rows, draws=draws)

    def _draw(self, rows: Rows, draws: int) -> Draws:
        variance = self.bundle.pixel_variance
        if variance is None:
            raise ValueError("the bundle has no pixel variance, so its images have no likelihood")
        pixels, noise = self._pixels_and_noise(rows, draws)
        heads, logits = self._heads_and_logits(pixels)
        posterior = self._network.posterior(heads)
        output = Reconstruction(logits.sigmoid(), posterior)
        noise = noise.reshape(len(noise), draws, self.bundle.config.latent_size)
        found = draw_likelihoods(
            self._draw_errors, pixels, posterior, noise, variance, DRAWN_AT_ONCE
        )
        return Draws(
            _numpy(found.given_z),
            _numpy(found.weight),
            _numpy(mean_squared_error(pixels, output)),
            _numpy(posterior.kl()),
            self._images((pixels - output.images).square()),
        )

    def draw_rows(self, images: NDArray[Any], noise: Floats) -> Floats:
        """Rows for `draw`: N images, and the ε of the K draws of each, (N, K, D).

        A row is an image's pixels, then the ε of `draws_a_row(K)` draws: of all K, or of so many
        that a pass is not long. An image has as many rows, one after the other, as its draws need;
        the last is filled with zeros.
        """
        n, draws, latent_size = noise.shape
        a_row = draws_a_row(draws)
        rows = math.ceil(draws / a_row)
        filled = np.zeros((n, rows * a_row, latent_size), dtype=np.float32)
        filled[:, :draws] = noise
        return self._rows(images, filled.reshape(n, rows, a_row * latent_size))

    def reconstruct_rows(self, images: NDArray[Any], noise: Floats) -> Floats:
        """Rows for `reconstruct_drawn`: N images, and an ε of each, (N, D)."""
        return self._rows(images, noise[:, None])

    def sampled_score(self, name: str, draws: Draws, noise_shape: tuple[int, ...]) -> Floats:
        """One of `sampled_scores`, (N,), of what `draw` made of rows of noise (N, K, D)."""
        n, count, _ = noise_shape
        likelihoods, weights = (
            values.reshape(n, -1)[:, :count] for values in (draws.log_likelihood, draws.log_weight)
        )
        return SAMPLED_SCORES[name](likelihoods, weights)

    def _rows(self, images: NDArray[Any], noise: Floats) -> Floats:
        """Each image, (N, …), before each of its R parts of noise (N, R, W): (N·R, C·H·W + W)."""
        n, rows, width = noise.shape
        pixels = images.reshape(n, 1, self.bundle.config.pixels)
        made = np.empty((n, rows, pixels.shape[2] + width), dtype=np.float32)
        write_scaled(pixels, made[..., :-width])
        made[..., -width:] = noise
        return made.reshape(n * rows, -1)

    def _scored(self, name: str, done: ForwardOutput) -> Scores:
        """By C where it has the score, and by torch else."""
        pixels, heads, logits = done
        if self._native and name in self._native.names:
            return Scores(*self._native(name, pixels, logits, heads))
        columns = self._columns(name, *map(torch.from_numpy, done)).numpy()
        if self._native:
            return Scores(columns[:, 0], *self._native("mse", pixels, logits, heads)[1:])
        return Scores(*columns.T)

    @torch.inference_mode()
    def _columns(self, name: str, pixels: Tensor, heads: Tensor, logits: Tensor) -> Tensor:
        """Score, MSE and KL side by side: (N, 3)."""
        output = Reconstruction(logits.sigmoid(), self._network.posterior(heads))
        mse = mean_squared_error(pixels, output)
        strange = self._scores[name](pixels, output)
        return torch.stack([strange, mse, output.posterior.kl()], dim=1)

    def _score_columns(self, name: str, pixels: Tensor) -> Tensor:
        return self._columns(name, pixels, *forward(self._network, pixels))

    def _map_columns(self, name: str, pixels: Tensor) -> Tensor:
        heads, logits = forward(self._network, pixels)
        error_map = (pixels - logits.sigmoid()).square()
        return torch.cat([self._columns(name, pixels, heads, logits), error_map], dim=1)

    def _encoded(self, pixels: Tensor) -> Tensor:
        posterior = self._network.encode(pixels)
        return torch.cat([posterior.mean, posterior.std], dim=1)  # (N, 2D)

    def _reconstructed(self, pixels: Tensor) -> Tensor:
        output = self._network(pixels)
        mse = mean_squared_error(pixels, output)
        return torch.cat([output.images, mse[:, None]], dim=1)  # (N, P + 1)

    def _staged(
        self, kind: str, run: Callable[[Tensor], Tensor], width: int | None = None
    ) -> Staging:
        """The staging of a kind of pass, for rows of C·H·W numbers if not of `width`."""
        if self._accelerator is None:
            raise RuntimeError("the CPU needs no staging")
        if kind not in self._stagings:
            width = width or self.bundle.config.pixels
            self._stagings[kind] = Staging(self._accelerator, run, width, self._most)
        return self._stagings[kind]

    def _fitted(self, run: Callable[..., C], rows: Rows, **options: int) -> C:
        """A pass that is not staged: on an accelerator, of as many rows at a time as fit."""
        once = partial(run, **options)
        if self._accelerator is None:
            return once(rows)
        key = run, *options.values()
        found: C = self._fittings.setdefault(key, OomBackoff(once, join_columns, self._most))(rows)
        return found

    def _heads_and_logits(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if self._accelerator:
            return forward(self._network, pixels)
        _, heads, logits = self._forward(pixels.numpy())
        return torch.from_numpy(heads), torch.from_numpy(logits)

    def _pixels_and_noise(self, rows: Rows, draws: int) -> tuple[Tensor, Tensor]:
        widths = [self.bundle.config.pixels, draws * self.bundle.config.latent_size]
        pixels, noise = torch.split(self._batch(rows, sum(widths)), widths, dim=1)
        return pixels, noise

    def _batch(self, rows: Rows, width: int) -> Tensor:
        """Put arrays together as (N, width) float32 on the device, uint8 scaled to [0, 1]."""
        return torch.from_numpy(joined(rows, width)).to(self._device)

    def _images(self, pixels: Tensor) -> Floats:
        return self._shaped(_numpy(pixels))

    def _shaped(self, pixels: Floats) -> Floats:
        return pixels.reshape(-1, *self.bundle.config.image_shape)  # (N, C, H, W)


def _numpy(tensor: Tensor) -> Floats:
    array: Floats = tensor.contiguous().cpu().numpy()  # μ is a slice of the encoder's output
    return array
