"""The deterministic pass on the CPU, encode and decode z = μ, by what is fastest there.

- Fully connected networks: C. model/engine/_layers.c is compiled when the package is installed;
  without a C compiler it is left out.
- Networks with convolutions: ONNX Runtime, where it is installed and the bundle has the graphs.
- Torch otherwise: in half precision, and in large batches of the first kind on several threads.

Scores by one and the other differ in rounding: by 2e-5 of a score at most in the included networks,
and graphs that differ from torch by more than 1e-4 are not exported. So a calibration holds,
whichever of them computed it and whichever serves. The p-value of an image changes only if its
score lies that close to a calibration image's, and then by a rank or so: 1 / (n + 1) for each.

N images, P = C·H·W pixels each, D latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from model.bundle.bundle import Bundle
from model.bundle.checks import BundleError
from model.engine.onnx_graph import OnnxGraph, import_runtime
from model.engine.passes import heads_and_logits
from model.engine.rows import Rows, concatenate_scaled, count_rows, fill
from model.features.detector import DetectorConfig
from model.results import Floats
from model.vae import VAE

try:
    from model.engine import _layers
except ImportError:
    available = False
else:
    available = bool(_layers.WIDE)  # with registers narrower than AVX-512's, torch is faster

TORCH: Final = f"torch {torch.__version__}"
"""The name of torch among the runtimes."""

MAX_SHARED: Final = 32
"""Images up to which one core in C is faster than several in torch."""

KEPT_VIEWS: Final = 1024
"""Batch sizes whose views of the buffers are kept; a service sees as many as its largest batch."""


class ForwardOutput(NamedTuple):
    """A batch before and after the pass. Valid until the next pass, which reuses the memory."""

    pixels: Floats  # (N, P), in [0, 1]
    heads: Floats  # (N, 2D), as `VAE.posterior` takes them
    logits: Floats  # (N, P), the reconstruction at z = μ before its sigmoid


class Forward(Protocol):
    """A way to compute the pass. Not for several threads at once."""

    runtime: str
    """What computes it, for people."""

    def __call__(self, images: Rows) -> ForwardOutput:
        """Encode, and decode z = μ."""
        ...

    def decode(self, z: Floats) -> Floats:
        """Latents, (N, D), C-contiguous, to logits, (N, P). Valid until the next call."""
        ...


def choose_forward(network: VAE, graphs: Mapping[str, bytes] | None = None) -> Forward:
    """The fastest way for a network on the CPU, whose bundle has these ONNX graphs.

    Raises `BundleError` for graphs that are not this network's.
    """
    if network.dtype != torch.float32:
        return ModuleForward(network)
    if network.config.architecture == "mlp":
        return MlpForward(network)
    if graphs and {"encoder", "decoder"} <= graphs.keys() and import_runtime():
        return OnnxForward(network, graphs["encoder"], graphs["decoder"])
    return ModuleForward(network)


def choose_detector(bundle: Bundle) -> OnnxDetector | None:
    """A bundle's detector by ONNX Runtime, if that is installed and the bundle has its graph.

    Raises `BundleError` for a graph that is not the detector's.
    """
    if bundle.detector is None or "detector" not in bundle.graphs or not import_runtime():
        return None
    return OnnxDetector(bundle.detector.config, bundle.graphs["detector"])


class ModuleForward:
    """Any network, by its torch modules."""

    runtime = TORCH

    def __init__(self, network: VAE) -> None:
        self._network = network

    @torch.inference_mode()
    def __call__(self, images: Rows) -> ForwardOutput:
        """Encode, and decode z = μ."""
        pixels = concatenate_scaled(images, self._network.config.pixels)
        heads, logits = heads_and_logits(self._network, torch.from_numpy(pixels))
        return ForwardOutput(pixels, heads.contiguous().numpy(), logits.contiguous().numpy())

    @torch.inference_mode()
    def decode(self, z: Floats) -> Floats:
        """Latents, (N, D), to logits, (N, P)."""
        return self._network.logits(torch.from_numpy(z)).contiguous().numpy()


class MlpForward:
    """A fully connected float32 network, in C where that is faster and by torch otherwise.

    Results overwrite those of the last pass. Fresh memory for each, whose pages the kernel would
    have to map, takes a tenth of the time at batch 128.
    """

    def __init__(self, network: VAE) -> None:
        config = network.config
        self._network = network
        self._sizes = config.encoder_sizes, config.decoder_sizes
        self._relu_head = config.head == "relu"
        layers = sum(len(sizes) - 1 for sizes in self._sizes)
        in_c = available and layers <= _layers.MAX_LAYERS
        self._weights = weights_in_blocks(network) if in_c else None
        self.runtime = "C" if in_c else TORCH
        self._widths = config.pixels, 2 * config.latent_size, config.pixels
        self._buffers = [np.empty((0, width), dtype=np.float32) for width in self._widths]
        self._views: dict[int, ForwardOutput] = {}
        self._decoded = np.empty((0, config.pixels), dtype=np.float32)

    def __call__(self, images: Rows) -> ForwardOutput:
        """Encode, and decode z = μ."""
        n = count_rows(images)
        output = self._views.get(n) or self._views_of(n)
        fill(output.pixels, images)
        if self._weights is not None and self._is_faster_in_c(n):
            pixels, heads, logits = output
            arrays = pixels, self._weights, *self._sizes, self._relu_head, heads, logits
            _layers.forward(n, *arrays)
        else:
            self._by_torch(output)
        return output

    @torch.inference_mode()
    def decode(self, z: Floats) -> Floats:
        """Latents, (N, D), C-contiguous, to logits, (N, P). Valid until the next call."""
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
    def _by_torch(self, output: ForwardOutput) -> None:
        heads, logits = heads_and_logits(self._network, torch.from_numpy(output.pixels))
        torch.from_numpy(output.heads).copy_(heads)
        torch.from_numpy(output.logits).copy_(logits)

    def _views_of(self, n: int) -> ForwardOutput:
        if n > len(self._buffers[0]) or len(self._views) >= KEPT_VIEWS:
            self._views.clear()
            size = max(n, len(self._buffers[0]))
            self._buffers = [np.empty((size, width), dtype=np.float32) for width in self._widths]
        self._views[n] = ForwardOutput(*(buffer[:n] for buffer in self._buffers))
        return self._views[n]


class OnnxForward:
    """A float32 network whose encoder and decoder are ONNX graphs, by ONNX Runtime.

    Batches of every size. With several threads on an idle machine torch is up to 1.3 times as fast
    from 32 images on; where anything else uses the cores, it takes four times as long, as its
    threads wait for each other by spinning. See benchmarks/NOTES.md.

    Raises `BundleError` for graphs that ONNX Runtime cannot read, or of other widths.
    """

    def __init__(self, network: VAE, encoder: bytes, decoder: bytes) -> None:
        config = network.config
        self._config = config
        self._encoder = OnnxGraph("encoder", encoder)
        self._decoder = OnnxGraph("decoder", decoder)
        self.runtime = self._encoder.runtime
        expected = ((config.pixels,), (2 * config.latent_size,))
        _check_widths("encoder", self._encoder.widths, expected)
        _check_widths("decoder", self._decoder.widths, ((config.latent_size,), (config.pixels,)))

    def __call__(self, images: Rows) -> ForwardOutput:
        """Encode, and decode z = μ."""
        pixels = concatenate_scaled(images, self._config.pixels)
        heads = self._encoder(pixels)  # (N, 2D): μ, then log σ²
        return ForwardOutput(pixels, heads, self._decoder(heads[:, : self._config.latent_size]))

    def decode(self, z: Floats) -> Floats:
        """Latents, (N, D), to logits, (N, P)."""
        return self._decoder(z)


class OnnxDetector:
    """A detector whose graph this is, by ONNX Runtime.

    Raises `BundleError` for a graph that ONNX Runtime cannot read, or of other widths.
    """

    def __init__(self, config: DetectorConfig, graph: bytes) -> None:
        self._graph = OnnxGraph("detector", graph)
        self.runtime = self._graph.runtime
        """What computes it, for people."""
        expected = ((math.prod(config.image_shape),), (config.columns,))
        _check_widths("detector", self._graph.widths, expected)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels, (N, P), to the columns of `Detector.forward`."""
        return torch.from_numpy(self._graph(pixels.numpy()))


def _check_widths(name: str, found: tuple[object, ...], expected: tuple[object, ...]) -> None:
    if found != expected:
        raise BundleError(f"the {name} graph takes and gives rows {found}, expected {expected}")


def weights_in_blocks(network: VAE) -> Floats:
    """The weights in the order in which `_layers.forward` reads them, (numbers,).

    The outputs of each layer are split into blocks of `_layers.COLUMNS`, which fill its registers;
    the last block is padded with zeros. A block is a line of biases, then a line for each input.
    """
    blocks: list[Floats] = []
    for layer in (*network.encoder, *network.decoder):
        if isinstance(layer, nn.Linear):
            lines = torch.cat([layer.bias[None], layer.weight.T]).detach()  # (1 + in, out)
            padded = nn.functional.pad(lines, (0, -lines.shape[1] % _layers.COLUMNS))
            blocks += [block.numpy() for block in torch.split(padded, _layers.COLUMNS, dim=1)]
    return np.concatenate([block.ravel() for block in blocks])
