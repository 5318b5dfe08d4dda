"""The scores of `model.scores.deterministic` on a CPU, in one call of C where that was built.

`model/scores/_native.c` is compiled as the package is installed. Where there is no compiler it is
left out, `available` is False, and scores are torch's.

>>> from model.bundle import find_bundle, load_bundle
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
from numpy.typing import NDArray
from torch import Tensor, nn

from model.config import VAEConfig
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

Floats = NDArray[np.float32]

CONSTANTS: Final[Floats] = np.array(
    [*LOG_VARIANCE_RANGE, PEARSON_FLOOR, CONTRAST_FLOOR, TINY], dtype=np.float32
)


class NativeScores:
    """Scores of what a network makes of images, each with the MSE and the KL.

    They agree with those of `model.scores.deterministic` as far as float32 goes. A row's scores are
    the same bits whatever the rows beside it. Several threads may call at once; while one works on
    more than a few images, the others run.
    """

    names: tuple[str, ...]
    """Of the scores on offer; the first is `model.scores.deterministic`'s default."""

    def __init__(self, config: VAEConfig, statistics: ScoreStatistics | None) -> None:
        self._worst = worst_count(config.pixels)
        self._statistics: Floats | None = None
        self.names = ("mse_top5", "mse", "kl")
        if statistics is not None:
            self._statistics = packed(statistics)
            self.names = ("fused", *self.names, "latent_density")

    @classmethod
    def of(cls, config: VAEConfig, statistics: ScoreStatistics | None) -> Self | None:
        """A network's, or None: where C was not compiled, and for `relu` heads, which it lacks."""
        return cls(config, statistics) if available and config.head == "log_variance" else None

    def __call__(
        self, name: str, pixels: Floats, logits: Floats, heads: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Score, MSE and KL of N images, each (N,); `name` is one of `names`.

        Takes pixels in [0, 1] and the decoder's output before its sigmoid, both (N, P), and the
        encoder's output, (N, 2D): C-contiguous, float32 and finite. Raises `ValueError` for other
        types and shapes.
        """
        out = np.empty((3, len(pixels)), dtype=np.float32)
        _native.score(name, pixels, logits, heads, self._worst, CONSTANTS, self._statistics, out)
        return out[0], out[1], out[2]


def errors_in_c(decode: Callable[[Floats], Floats]) -> Callable[[Tensor, Tensor], Tensor]:
    """`model.scores.sampled.Errors` without torch, whose operations would each take Python's lock
    again.

    `decode` gives the logits, (N · K, P), of latents. All are float32, logits C-contiguous too.
    """

    def errors(pixels: Tensor, z: Tensor) -> Tensor:
        n = len(pixels)
        out = np.empty((n, len(z) // n), dtype=np.float32)
        logits = decode(z.contiguous().numpy())
        _native.errors(pixels.contiguous().numpy(), logits, out)
        return torch.from_numpy(out)

    return errors


def packed(statistics: ScoreStatistics) -> Floats:
    """What `_native.score` takes as its statistics.

    It computes as many components of the mixture at a time as fit a register. So each of their
    arrays has components as its last axis, and is filled up with components of weight 0.
    """
    mixture = statistics.mixture
    _, size = mixture.means.shape
    roots = mixture.roots.double()
    log_roots = roots.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    constants = mixture.log_weights + log_roots - 0.5 * size * LOG_2PI  # (K,)
    columns, rows = torch.triu_indices(size, size)
    lower = roots[:, rows, columns].T  # (D (D + 1) / 2, K)
    numbers = torch.cat([constants[None], mixture.means.T, lower])  # (1 + D + D (D + 1) / 2, K)
    filled = nn.functional.pad(numbers, (0, -len(constants) % _native.LANES))
    filled[0, len(constants) :] = -math.inf
    groups = filled.view(len(filled), -1, _native.LANES).permute(1, 0, 2)
    scale = [statistics.contrast, statistics.fused_median, statistics.fused_tail]
    return torch.cat([*scale, groups.flatten()]).float().numpy()
