"""One pass through the network: rows in, what the scores are made of out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.vae import VAE

Rows = NDArray[Any] | Sequence[NDArray[Any]]
"""One array with a row an image (or latent), or several that are put together into one batch.

Images are uint8 (0..255) or floats in [0, 1], (N, C, H, W) or anything else with C·H·W numbers a
row; arrays of both types may share a batch.
"""

KEPT_VIEWS: Final = 1024
"""Batch sizes whose views of the buffers are kept; a service has as many as its largest batch."""


class Pass(NamedTuple):
    """What goes into a pass and comes out of it. Valid until the next one."""

    pixels: Tensor  # (N, P), in [0, 1]
    heads: Tensor  # (N, 2D), as `VAE.posterior` takes them
    logits: Tensor  # (N, P), the reconstruction at z = μ before its sigmoid


class ModuleForward:
    """Any network on any device, by its modules."""

    def __init__(self, network: VAE, device: torch.device) -> None:
        self._network = network
        self._device = device

    def __call__(self, images: Rows) -> Pass:
        """Encode, and decode z = μ."""
        width = self._network.config.pixels
        batch = np.empty((count_rows(images), width), dtype=np.float32)
        fill(batch, images)
        return forward(self._network, torch.from_numpy(batch).to(self._device))


def forward(network: VAE, pixels: Tensor) -> Pass:
    """Encode (N, P), and decode z = μ."""
    heads = network.heads(pixels)
    return Pass(pixels, heads, network.logits(network.posterior(heads).mean))


class MlpForward:
    """A fully connected network on the CPU, in memory that is kept.

    The weights lie as the matrix product reads them, and results go where those of the last pass
    were: at batch 128 new memory for each, whose pages the kernel has to map, takes a tenth of the
    time, and at batch 16 products with weights the other way round take half as long again.
    """

    def __init__(self, network: VAE) -> None:
        self._relu_head = network.config.head == "relu"
        self._latent_size = network.config.latent_size
        self._dtype = network.dtype
        self._encoder = _layers(network.encoder)
        self._decoder = _layers(network.decoder)
        widths = [weight.shape[1] for weight, _ in self._encoder + self._decoder]
        self._widths = [network.config.pixels, *widths]
        self._buffers: list[Tensor] = []
        self._views: dict[int, tuple[NDArray[np.float32], list[Tensor]]] = {}

    def __call__(self, images: Rows) -> Pass:
        """Encode, and decode z = μ."""
        n = count_rows(images)
        # A lone image is computed beside another: for one row, MKL takes a product of matrix and
        # vector, which rounds differently. From two rows on, a row's result has been the same to
        # the last bit whatever the others were, up to batches larger than the service's.
        array, views = self._views.get(rows := max(n, 2)) or self._views_of(rows)
        fill(array, images)
        pixels, *outputs = views
        heads = _run(self._encoder, pixels.to(self._dtype), outputs)
        mean = heads[:, : self._latent_size]
        if self._relu_head:
            mean = mean.relu()
        logits = _run(self._decoder, mean, outputs[len(self._encoder) :])
        return Pass(pixels[:n], heads[:n].float(), logits[:n].float())

    def _views_of(self, n: int) -> tuple[NDArray[np.float32], list[Tensor]]:
        if not self._buffers or n > len(self._buffers[0]) or len(self._views) >= KEPT_VIEWS:
            self._views.clear()
            size = max(n, len(self._buffers[0]) if self._buffers else 0)
            first, *others = self._widths
            self._buffers = [torch.zeros(size, first)]
            self._buffers += [torch.zeros(size, width, dtype=self._dtype) for width in others]
        views = [buffer[:n] for buffer in self._buffers]
        self._views[n] = views[0].numpy(), views
        return self._views[n]


def count_rows(rows: Rows) -> int:
    """N."""
    return len(rows) if isinstance(rows, np.ndarray) else sum(map(len, rows))


def fill(batch: NDArray[np.float32], rows: Rows) -> None:
    """Put arrays one below the other into (N, width), uint8 scaled to [0, 1]."""
    start = 0
    for part in (rows,) if isinstance(rows, np.ndarray) else rows:
        target = batch[start : (start := start + len(part))]
        write_scaled(part.reshape(target.shape), target)


def write_scaled(values: NDArray[Any], target: NDArray[np.float32]) -> None:
    """Put numbers into `target`, uint8 scaled to [0, 1] without an array in between."""
    if values.dtype == np.uint8:
        np.divide(values, np.float32(255), out=target)
    else:
        target[...] = values


def _layers(layers: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
    """Weights, (in, out), and biases of linear layers with ReLU between them."""
    return [
        (layer.weight.detach().t().contiguous(), layer.bias.detach())
        for layer in layers
        if isinstance(layer, nn.Linear)
    ]


def _run(layers: list[tuple[Tensor, Tensor]], batch: Tensor, outputs: list[Tensor]) -> Tensor:
    last = len(layers) - 1
    for number, (weight, bias) in enumerate(layers):
        batch = torch.addmm(bias, batch, weight, out=outputs[number])
        if number < last:
            batch.relu_()
    return batch
