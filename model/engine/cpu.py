"""One pass through the network on the CPU: rows in, what the scores are made of out.

`model/engine/_layers.c` is compiled as the package is installed. Where there is no compiler it is
left out, and products are torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.vae import VAE

try:
    from model.engine import _layers
except ImportError:
    available = False
else:
    available = bool(_layers.WIDE)  # with narrower registers torch is faster

Floats = NDArray[np.float32]
Rows = NDArray[Any] | Sequence[NDArray[Any]]
"""One array with a row an image (or latent), or several that are put together into one batch.

Images are uint8 (0..255) or floats in [0, 1], (N, C, H, W) or anything else with C·H·W numbers a
row; arrays of both types may share a batch.
"""

MAX_SHARED: Final = 32
"""Images up to which one core in C is faster than several in torch."""

KEPT_VIEWS: Final = 1024
"""Batch sizes whose views of the buffers are kept; a service has as many as its largest batch."""


class ForwardOutput(NamedTuple):
    """What goes into a pass and comes out of it. Valid until the next one."""

    pixels: Floats  # (N, P), in [0, 1]
    heads: Floats  # (N, 2D), as `VAE.posterior` takes them
    logits: Floats  # (N, P), the reconstruction at z = μ before its sigmoid


class ModuleForward:
    """Any network, by its modules."""

    def __init__(self, network: VAE) -> None:
        self._network = network

    @torch.inference_mode()
    def __call__(self, images: Rows) -> ForwardOutput:
        """Encode, and decode z = μ."""
        pixels = joined(images, self._network.config.pixels)
        heads, logits = forward(self._network, torch.from_numpy(pixels))
        return ForwardOutput(pixels, heads.contiguous().numpy(), logits.contiguous().numpy())

    @torch.inference_mode()
    def decode(self, z: Floats) -> Floats:
        """The logits, (N, P), of latents, (N, D)."""
        return self._network.logits(torch.from_numpy(z)).contiguous().numpy()


def forward(network: VAE, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Heads, (N, 2D), and logits, (N, P), of pixels, (N, P)."""
    heads = network.heads(pixels)
    return heads, network.logits(network.posterior(heads).mean)


class MlpForward:
    """A fully connected float32 network on the CPU: by C where that is faster, and by torch else.

    Results go where those of the last pass were: at batch 128 new memory for each, whose pages the
    kernel has to map, takes a tenth of the time.
    """

    def __init__(self, network: VAE) -> None:
        config = network.config
        self._network = network
        self._sizes = config.encoder_sizes, config.decoder_sizes
        self._relu_head = config.head == "relu"
        layers = sum(len(sizes) - 1 for sizes in self._sizes)
        self._weights = packed(network) if available and layers <= _layers.MAX_LAYERS else None
        self._widths = config.pixels, 2 * config.latent_size, config.pixels
        self._buffers = [np.empty((0, width), dtype=np.float32) for width in self._widths]
        self._views: dict[int, ForwardOutput] = {}
        self._decoded = np.empty((0, config.pixels), dtype=np.float32)

    def __call__(self, images: Rows) -> ForwardOutput:
        """Encode, and decode z = μ."""
        n = count_rows(images)
        done = self._views.get(n) or self._views_of(n)
        fill(done.pixels, images)
        if self._weights is not None and self._is_faster_in_c(n):
            pixels, heads, logits = done
            arrays = pixels, self._weights, *self._sizes, self._relu_head, heads, logits
            _layers.forward(n, *arrays)
        else:
            self._by_torch(done)
        return done

    @torch.inference_mode()
    def decode(self, z: Floats) -> Floats:
        """The logits, (N, P), of latents, (N, D): C-contiguous. Valid until the next ones."""
        n = len(z)
        if self._weights is None or not self._is_faster_in_c(n):
            return self._network.logits(torch.from_numpy(z)).numpy()
        if n > len(self._decoded):
            self._decoded = np.empty((n, self._widths[-1]), dtype=np.float32)
        logits = self._decoded[:n]
        _layers.decode(n, z, self._weights, *self._sizes, logits)
        return logits

    @staticmethod
    def _is_faster_in_c(n: int) -> bool:
        return n <= MAX_SHARED or torch.get_num_threads() == 1

    @torch.inference_mode()
    def _by_torch(self, done: ForwardOutput) -> None:
        heads, logits = forward(self._network, torch.from_numpy(done.pixels))
        torch.from_numpy(done.heads).copy_(heads)
        torch.from_numpy(done.logits).copy_(logits)

    def _views_of(self, n: int) -> ForwardOutput:
        if n > len(self._buffers[0]) or len(self._views) >= KEPT_VIEWS:
            self._views.clear()
            size = max(n, len(self._buffers[0]))
            self._buffers = [np.empty((size, width), dtype=np.float32) for width in self._widths]
        self._views[n] = ForwardOutput(*(buffer[:n] for buffer in self._buffers))
        return self._views[n]


def packed(network: VAE) -> Floats:
    """The weights as `_layers.forward` takes them.

    Of each layer, blocks of so many outputs as fit its registers, the last filled up with zeros:
    the biases, then a line for each input.
    """
    blocks: list[Floats] = []
    for layer in (*network.encoder, *network.decoder):
        if isinstance(layer, nn.Linear):
            lines = torch.cat([layer.bias[None], layer.weight.T]).detach()  # (1 + in, out)
            filled = nn.functional.pad(lines, (0, -lines.shape[1] % _layers.COLUMNS))
            blocks += [block.numpy() for block in torch.split(filled, _layers.COLUMNS, dim=1)]
    return np.concatenate([block.ravel() for block in blocks])


def count_rows(rows: Rows) -> int:
    """N."""
    return len(rows) if isinstance(rows, np.ndarray) else sum(map(len, rows))


def joined(rows: Rows, width: int) -> Floats:
    """One array, (N, width), of one or several; uint8 scaled to [0, 1]."""
    batch = np.empty((count_rows(rows), width), dtype=np.float32)
    fill(batch, rows)
    return batch


def fill(batch: NDArray[Any], rows: Rows) -> None:
    """Put arrays one below the other into (N, width), uint8 scaled to [0, 1] if that is float32."""
    start = 0
    for part in (rows,) if isinstance(rows, np.ndarray) else rows:
        target = batch[start : (start := start + len(part))]
        write_scaled(part.reshape(target.shape), target)


def write_scaled(values: NDArray[Any], target: NDArray[Any]) -> None:
    """Put numbers into `target`, uint8 scaled to [0, 1] for float32, without an array between."""
    if values.dtype == np.uint8 and target.dtype != np.uint8:
        np.divide(values, np.float32(255), out=target)
    else:
        target[...] = values
