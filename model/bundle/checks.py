"""Checks of a bundle's tensors against its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from model.config import VAEConfig
from model.scores.deterministic import ScoreStatistics
from model.tensor_file import TensorHeader
from model.vae import weight_shapes

STATISTICS_PREFIX: Final = "statistics."
"""Marks the tensors in model.safetensors that are not weights."""

MAX_MIXTURE: Final = 256
"""Components of a density over latents; training fits at most 30."""


class BundleError(Exception):
    """The bundle is missing, damaged or of a newer format. The message is one line."""


def check_weights(weights: Mapping[str, Tensor], config: VAEConfig) -> None:
    """Raise `BundleError` unless these are float32, finite, and exactly those `config` needs."""
    _check_tensors(weights, weight_shapes(config))


def check_headers(headers: Mapping[str, TensorHeader], config: VAEConfig) -> None:
    """The same for types and shapes in a header, which may include statistics."""
    for name, tensor in headers.items():
        if tensor.dtype != "F32":
            raise BundleError(f"{name[:64]} is {tensor.dtype[:64]}, expected F32")
    shapes = {name: tensor.shape for name, tensor in headers.items()}
    weights = {n: shape for n, shape in shapes.items() if not n.startswith(STATISTICS_PREFIX)}
    _check_shapes(weights, weight_shapes(config))
    if len(weights) < len(shapes):
        statistics = {n.removeprefix(STATISTICS_PREFIX): shapes[n] for n in shapes.keys() - weights}
        _check_shapes(statistics, _statistics_shapes(statistics, config))


def _statistics_shapes(
    shapes: Mapping[str, tuple[int, ...]], config: VAEConfig
) -> Mapping[str, tuple[int, ...]]:
    """The right shapes, for as many components as `mixture_log_weights` has in `shapes`."""
    components = next(iter(shapes.get("mixture_log_weights", ())), 1)
    return ScoreStatistics.shapes(config.latent_size, min(max(components, 1), MAX_MIXTURE))


def check_statistics(tensors: Mapping[str, Tensor], config: VAEConfig) -> None:
    """Raise `BundleError` unless these are the statistics of such a network."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    _check_tensors(tensors, _statistics_shapes(shapes, config))
    diagonals = tensors["mixture_roots"].diagonal(dim1=1, dim2=2)
    for name, scale in (("fused_tail", tensors["fused_tail"]), ("mixture_roots", diagonals)):
        if not (scale > 0).all():
            raise BundleError(f"{name} holds {scale.min():g}, expected scales above 0")


def _check_shapes(
    shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    if odd := sorted(set(shapes) ^ set(expected)):
        kind = "lacks" if odd[0] in expected else "has an unknown"
        raise BundleError(f"the weights' file {kind} tensor {odd[0][:64]!r}")
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise BundleError(f"{name} has shape {shape}, not {expected[name]}")


def _check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    _check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, expected)
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise BundleError(f"{name} is {tensor.dtype}, expected torch.float32")
        if not tensor.isfinite().all():
            raise BundleError(f"{name} holds NaN or infinity")
