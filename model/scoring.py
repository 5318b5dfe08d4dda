"""Scores of one image, from the image, its posterior and its reconstruction.

Larger is stranger. Scores are deterministic: z = μ. A Bernoulli log-likelihood is never one of
them: on grey pixels it grows with the share of dark ones, and so prefers simple images to normal
ones.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor

SCORES: Final = ("mse",)
"""Names of the scores on offer; the first is the default."""


def mean_squared_error(pixels: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean over the pixels of (x − x̂)², an image each: (N, P), (N, P) to (N,)."""
    return (pixels - reconstruction).square().mean(dim=1)
