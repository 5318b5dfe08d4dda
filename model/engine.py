"""The network as the service sees it: numpy in, numpy out.

>>> from model.bundle import find_bundle, load_bundle
>>> engine = Engine(load_bundle(find_bundle("mnist")), device="cpu")
>>> engine.score(np.zeros((2, 1, 28, 28), dtype=np.uint8)).mse.shape
(2,)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.bundle import Bundle
from model.device import describe_device, resolve_device
from model.scoring import SCORES, mean_squared_error

Floats = NDArray[np.float32]
Rows = NDArray[Any] | Sequence[NDArray[Any]]
"""One array with a row an image (or latent), or several that are put together into one batch.

Images are uint8 (0..255) or floats in [0, 1], (N, C, H, W) or anything else with C·H·W numbers a
row; arrays of both types may share a batch.
"""


class Encoding(NamedTuple):
    """The posterior of each image."""

    mu: Floats  # (N, D)
    sigma: Floats  # (N, D), standard deviations


class Decoding(NamedTuple):
    """Images in [0, 1]."""

    images: Floats  # (N, C, H, W)


class Reconstructions(NamedTuple):
    """Images encoded and decoded again, and how far they are off."""

    images: Floats  # (N, C, H, W), in [0, 1]
    mse: Floats  # (N,)


class Scores(NamedTuple):
    """How strange each image is. `score` is the default of `model.scoring.SCORES`."""

    score: Floats  # (N,)
    mse: Floats  # (N,), mean squared error of a pixel at z = μ
    kl: Floats  # (N,), nats


class ScoreMaps(NamedTuple):
    """`Scores`, and where in each image they come from."""

    score: Floats  # (N,)
    mse: Floats  # (N,)
    kl: Floats  # (N,), nats
    error_map: Floats  # (N, C, H, W), squared error of each pixel at z = μ; its mean is the mse


class Engine:
    """Holds a bundle's network on a device. One forward pass for a batch, however it is made up.

    Not for several threads at once: callers queue (see `service.batching`). Raises `DeviceError`
    for a device that is not there. `threads` bounds what one pass uses of the CPU; torch keeps it
    for the whole process.
    """

    def __init__(self, bundle: Bundle, *, device: str = "auto", threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.bundle = bundle
        self._device = resolve_device(device)
        self._network = bundle.network().to(self._device)

    @property
    def device(self) -> str:
        """What it runs on, for people."""
        return describe_device(self._device)

    @property
    def dtype(self) -> str:
        """The type that it computes in."""
        return str(next(self._network.parameters()).dtype).removeprefix("torch.")

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores on offer; the first is the default."""
        return SCORES

    def warm_up(self, batch_images: int) -> None:
        """Run each kind of pass at batch 1 and `batch_images`, so that no client waits for it."""
        config = self.bundle.config
        for n in (1, batch_images):
            images = np.zeros((n, config.pixels), dtype=np.uint8)
            self.encode(images)
            self.decode(np.zeros((n, config.latent_size), dtype=np.float32))
            self.reconstruct(images)
            self.reconstruct_drawn(
                np.zeros((n, config.pixels + config.latent_size), dtype=np.float32)
            )
            self.score(images)
            self.score_map(images)

    @torch.inference_mode()
    def encode(self, images: Rows) -> Encoding:
        """The posterior N(μ, diag σ²) of each image."""
        posterior = self._network.encode(self._pixels(images))
        return Encoding(_numpy(posterior.mean), _numpy(posterior.std))

    @torch.inference_mode()
    def decode(self, z: Rows) -> Decoding:
        """The image that each latent, (N, D), stands for."""
        latents = self._batch(z, self.bundle.config.latent_size)
        return Decoding(self._images(self._network.decode(latents)))

    @torch.inference_mode()
    def reconstruct(self, images: Rows) -> Reconstructions:
        """Each image encoded and decoded again, through z = μ."""
        return self._reconstructions(self._pixels(images))

    @torch.inference_mode()
    def reconstruct_drawn(self, rows: Rows) -> Reconstructions:
        """Each image through a draw z = μ + σ·ε.

        A row is the C·H·W pixels in [0, 1], then the D numbers of ε: the queue holds one array for
        a request.
        """
        config = self.bundle.config
        batch = self._batch(rows, config.pixels + config.latent_size)
        pixels, noise = torch.split(batch, [config.pixels, config.latent_size], dim=1)
        return self._reconstructions(pixels, noise)

    @torch.inference_mode()
    def score(self, images: Rows) -> Scores:
        """How strange each image is."""
        pixels = self._pixels(images)
        output = self._network(pixels)
        mse = _numpy(mean_squared_error(pixels, output.images))
        return Scores(mse, mse, _numpy(output.posterior.kl()))

    @torch.inference_mode()
    def score_map(self, images: Rows) -> ScoreMaps:
        """How strange each image is, and where."""
        pixels = self._pixels(images)
        output = self._network(pixels)
        mse = _numpy(mean_squared_error(pixels, output.images))
        error_map = self._images((pixels - output.images).square())
        return ScoreMaps(mse, mse, _numpy(output.posterior.kl()), error_map)

    def _reconstructions(self, pixels: Tensor, noise: Tensor | None = None) -> Reconstructions:
        output = self._network(pixels, noise)
        mse = mean_squared_error(pixels, output.images)
        return Reconstructions(self._images(output.images), _numpy(mse))

    def _pixels(self, images: Rows) -> Tensor:
        return self._batch(images, self.bundle.config.pixels)  # (N, P)

    def _batch(self, rows: Rows, width: int) -> Tensor:
        """Put arrays together as (N, width) float32 on the device, uint8 scaled to [0, 1]."""
        parts = [rows] if isinstance(rows, np.ndarray) else rows
        batch = np.empty((sum(len(part) for part in parts), width), dtype=np.float32)
        start = 0
        for part in parts:
            target = batch[start : (start := start + len(part))]
            flat = part.reshape(len(part), width)
            if part.dtype == np.uint8:
                np.divide(flat, np.float32(255), out=target)
            else:
                target[...] = flat
        return torch.from_numpy(batch).to(self._device)

    def _images(self, pixels: Tensor) -> Floats:
        return _numpy(pixels).reshape(-1, *self.bundle.config.image_shape)  # (N, C, H, W)


def _numpy(tensor: Tensor) -> Floats:
    array: Floats = tensor.contiguous().cpu().numpy()  # μ is a slice of the encoder's output
    return array
