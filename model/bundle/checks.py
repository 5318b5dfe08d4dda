"""Checks of a bundle's tensors against its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import torch
from torch import Tensor

from model.config import VAEConfig
from model.features.detector import DetectorConfig, detector_types
from model.scores.deterministic import ScoreStatistics
from model.tensor_file import TensorHeader
from model.vae import weight_shapes

T = TypeVar("T")

STATISTICS_PREFIX: Final = "statistics."
"""Marks the statistics among the tensors in model.safetensors."""

DETECTOR_PREFIX: Final = "detector."
"""Marks the tensors of the detector."""

MAX_MIXTURE: Final = 256
"""Components of a density over latents; training fits at most 30."""


class BundleError(Exception):
    """The bundle is missing, damaged or of a newer format. The message is one line."""


def check_weights(weights: Mapping[str, Tensor], config: VAEConfig) -> None:
    """Raise `BundleError` unless these are float32, finite, and exactly those `config` needs."""
    _check_tensors(weights, weight_shapes(config))


def check_headers(
    headers: Mapping[str, TensorHeader],
    config: VAEConfig,
    detector: DetectorConfig | None = None,
) -> None:
    """The same for types and shapes in a header, which may include statistics and a detector."""
    types = {} if detector is None else detector_types(detector)
    half = {DETECTOR_PREFIX + name for name, (dtype, _) in types.items() if dtype == torch.float16}
    for name, tensor in headers.items():
        expected = "F16" if name in half else "F32"
        if tensor.dtype != expected:
            raise BundleError(f"{name[:64]} is {tensor.dtype[:64]}, expected {expected}")
    shapes = {name: tensor.shape for name, tensor in headers.items()}
    if detector is not None:
        _check_shapes(
            take_prefixed(shapes, DETECTOR_PREFIX),
            {name: shape for name, (_, shape) in types.items()},
            prefix=DETECTOR_PREFIX,
        )
    statistics = take_prefixed(shapes, STATISTICS_PREFIX)
    _check_shapes(shapes, weight_shapes(config))
    if statistics:
        expected_shapes = _statistics_shapes(statistics, config)
        _check_shapes(statistics, expected_shapes, prefix=STATISTICS_PREFIX)


def take_prefixed(values: dict[str, T], prefix: str) -> dict[str, T]:
    """Remove the values whose names start with `prefix`, and return them without it."""
    names = [name for name in values if name.startswith(prefix)]
    return {name.removeprefix(prefix): values.pop(name) for name in names}


def _statistics_shapes(
    shapes: Mapping[str, tuple[int, ...]], config: VAEConfig
) -> Mapping[str, tuple[int, ...]]:
    """The right shapes, for as many components as `mixture_log_weights` has in `shapes`."""
    components = next(iter(shapes.get("mixture_log_weights", ())), 1)
    return ScoreStatistics.shapes(config.latent_size, min(max(components, 1), MAX_MIXTURE))


def check_statistics(tensors: Mapping[str, Tensor], config: VAEConfig) -> None:
    """Raise `BundleError` unless these are the statistics of such a network."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    _check_tensors(tensors, _statistics_shapes(shapes, config), prefix=STATISTICS_PREFIX)
    diagonals = tensors["mixture_roots"].diagonal(dim1=1, dim2=2)
    scales = {"fused_tail": tensors["fused_tail"], "mixture_roots": diagonals}
    _check_scales(scales, prefix=STATISTICS_PREFIX)


def check_detector(tensors: Mapping[str, Tensor], config: DetectorConfig) -> None:
    """Raise `BundleError` unless these are the tensors of such a detector."""
    types = detector_types(config)
    _check_tensors(
        tensors,
        {name: shape for name, (_, shape) in types.items()},
        prefix=DETECTOR_PREFIX,
        dtypes={name: dtype for name, (dtype, _) in types.items()},
    )
    scales = {
        "feature_std": tensors["feature_std"],
        **{name: tensors[name][1] for name in ("place_scale", "cell_scale")},
        **{name: tensors[name][:, 1] for name in ("map_scale", "combined_scale")},
    }
    _check_scales(scales, prefix=DETECTOR_PREFIX)


def _check_scales(scales: Mapping[str, Tensor], *, prefix: str) -> None:
    for name, scale in scales.items():
        if not (scale > 0).all():
            raise BundleError(f"{prefix}{name} holds {scale.min():g}, expected scales above 0")


def _check_shapes(
    shapes: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    *,
    prefix: str = "",
) -> None:
    """Messages name tensors as the file does, with the `prefix` that these names lack."""
    if odd := sorted(set(shapes) ^ set(expected)):
        kind = "lacks" if odd[0] in expected else "has an unknown"
        raise BundleError(f"the weights' file {kind} tensor {(prefix + odd[0])[:64]!r}")
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise BundleError(f"{prefix}{name} has shape {shape}, not {expected[name]}")


def _check_tensors(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    *,
    prefix: str = "",
    dtypes: Mapping[str, torch.dtype] | None = None,
) -> None:
    """Shapes, types and values. `dtypes` are those of all tensors, by default float32."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    _check_shapes(shapes, expected, prefix=prefix)
    for name, tensor in tensors.items():
        dtype = torch.float32 if dtypes is None else dtypes[name]
        if tensor.dtype != dtype:
            raise BundleError(f"{prefix}{name} is {tensor.dtype}, expected {dtype}")
        if not tensor.isfinite().all():
            raise BundleError(f"{prefix}{name} holds NaN or infinity")
