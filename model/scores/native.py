"""The scores of `model.scores.deterministic` on the CPU, in one call of C if that is compiled.

model/scores/_native.c is compiled when the package is installed. Without a C compiler it is left
out, `available` is False, and torch computes the scores.

N images, P = C·H·W pixels each, D latent dimensions, K components of the mixture.

>>> from model.bundle.bundle import find_bundle, load_bundle
>>> bundle = load_bundle(find_bundle("mnist"))
>>> native = NativeScores.of(bundle.config, bundle.statistics)
>>> native and native.names
('fused', 'mse_top5', 'mse', 'kl', 'latent_density')
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Self

import numpy as np
import torch
from torch import Tensor, nn

from model.config import VAEConfig
from model.results import Floats
from model.scores.deterministic import (
    CONTRAST_FLOOR,
    LOG_2PI,
    PEARSON_FLOOR,
    TINY,
    ScoreStatistics,
    worst_count,
)
from model.vae import LOG_VARIANCE_RANGE

try:
    from model.scores import _native
except ImportError:
    available = False
else:
    available = True

CONSTANTS: Final[Floats] = np.array(
    [*LOG_VARIANCE_RANGE, PEARSON_FLOOR, CONTRAST_FLOOR, TINY], dtype=np.float32
)


class NativeScores:
    """Scores of a network's output, each with the MSE and the KL.

    They agree with `model.scores.deterministic` within float32 rounding. A row's scores are the
    same bits whatever the rows beside it. Several threads may call at once; more than a few images
    are scored without holding the GIL.
    """

    names: tuple[str, ...]
    """Scores that C computes; the first is the default of `model.scores.deterministic`."""

    def __init__(self, config: VAEConfig, statistics: ScoreStatistics | None) -> None:
        self._worst = worst_count(config.pixels)
        self._statistics: Floats | None = None
        self.names = ("mse_top5", "mse", "kl")
        if statistics is not None:
            self._statistics = statistics_in_groups(statistics)
            self.names = ("fused", *self.names, "latent_density")

    @classmethod
    def of(cls, config: VAEConfig, statistics: ScoreStatistics | None) -> Self | None:
        """For a network; None if C is not compiled or lacks the network's head, `relu`."""
        return cls(config, statistics) if available and config.head == "log_variance" else None

    def __call__(
        self, name: str, pixels: Floats, logits: Floats, heads: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Score, MSE and KL of N images, (N,) each; `name` is one of `names`.

        Takes pixels in [0, 1] and the decoder's output before its sigmoid, both (N, P), and the
        encoder's output, (N, 2D). All are float32, C-contiguous and finite. Raises `ValueError` for
        other types and shapes, and for a name that is not one of `names`.
        """
        out = np.empty((3, len(pixels)), dtype=np.float32)
        _native.score(name, pixels, logits, heads, self._worst, CONSTANTS, self._statistics, out)
        return out[0], out[1], out[2]


def errors_in_c(decode: Callable[[Floats], Floats]) -> Callable[[Tensor, Tensor], Tensor]:
    """`model.scores.sampled.Errors` in C; each of torch's operations would reacquire the GIL.

    `decode` returns the logits, (N · K, P), of latents, (N · K, D): float32 and C-contiguous.
    """

    def errors(pixels: Tensor, z: Tensor) -> Tensor:
        n = len(pixels)
        out = np.empty((n, len(z) // n), dtype=np.float32)
        logits = decode(z.contiguous().numpy())
        _native.errors(pixels.contiguous().numpy(), logits, out)
        return torch.from_numpy(out)

    return errors


def statistics_in_groups(statistics: ScoreStatistics) -> Floats:
    """The statistics in the order in which `_native.score` reads them, (numbers,).

    C computes `_native.LANES` components of the mixture at a time, one for each lane of a register.
    So they are stored in groups of that size, with the component as the last axis; the last group
    is padded with components of weight 0.
    """
    mixture = statistics.mixture
    _, size = mixture.means.shape
    roots = mixture.roots.double()
    log_roots = roots.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    constants = mixture.log_weights + log_roots - 0.5 * size * LOG_2PI  # (K,)
    columns, rows = torch.triu_indices(size, size)
    lower = roots[:, rows, columns].T  # (D (D + 1) / 2, K)
    numbers = torch.cat([constants[None], mixture.means.T, lower])  # (1 + D + D (D + 1) / 2, K)
    padded = nn.functional.pad(numbers, (0, -len(constants) % _native.LANES))
    padded[0, len(constants) :] = -math.inf
    groups = padded.view(len(padded), -1, _native.LANES).permute(1, 0, 2)
    scale = [statistics.contrast, statistics.fused_median, statistics.fused_tail]
    return torch.cat([*scale, groups.flatten()]).float().numpy()
