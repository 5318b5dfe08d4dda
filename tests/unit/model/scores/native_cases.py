"""What a network could have made of some images, scored in C and by torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from model.config import VAEConfig
from model.scores.deterministic import ScoreStatistics, offered_scores
from model.scores.native import NativeScores
from model.vae import LOG_VARIANCE_RANGE, DiagonalGaussian, Reconstruction
from tests.unit.samples import some_statistics

Floats = NDArray[np.float32]
Found = tuple[Floats, Floats, Floats]

P, D = 50, 3
NAMES: Final = ("fused", "mse_top5", "mse", "kl", "latent_density")

RTOL: Final = 1e-5
"""What the service promises between two ways to the same score."""

SIGMOID_ATOL: Final = 2e-7
"""Between two float32 ways to x̂, and so to x − x̂, which may be small itself."""


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def statistics_of(components: int, latents: int, seed: int, contrast: float) -> ScoreStatistics:
    """As some training images could have left behind, with a mixture of so many components."""
    noise = random(seed)
    roots = torch.randn(components, latents, latents, generator=noise).tril() / latents**0.5
    roots.diagonal(dim1=1, dim2=2).abs_().add_(0.3)
    return replace(
        some_statistics(latents),
        contrast=torch.tensor([contrast]),
        mixture_log_weights=torch.randn(components, generator=noise).log_softmax(dim=0),
        mixture_means=2 * torch.randn(components, latents, generator=noise),
        mixture_roots=roots,
    )


class Case:
    """What some network could have made of N images, and the statistics that belong to it."""

    def __init__(
        self,
        n: int = 5,
        pixels: int = P,
        latents: int = D,
        components: int = 2,
        seed: int = 0,
        spread: float = 2.0,
        contrast: float = 0.1,
    ) -> None:
        noise = random(seed)
        self.config = VAEConfig(image_shape=(1, 1, pixels), hidden_sizes=(4,), latent_size=latents)
        self.statistics = statistics_of(components, latents, seed, contrast)
        self.pixels = torch.rand(n, pixels, generator=noise)
        self.logits = spread * torch.randn(n, pixels, generator=noise)
        self.heads = 1.5 * torch.randn(n, 2 * latents, generator=noise)

    @property
    def scores(self) -> NativeScores:
        found = NativeScores.of(self.config, self.statistics)
        assert found is not None
        return found

    def native(self, name: str, rows: slice = slice(None)) -> Found:
        parts = (self.pixels, self.logits, self.heads)
        return self.scores(name, *(part[rows].numpy() for part in parts))

    def torch(self, name: str) -> Found:
        """The same by `model.scores.deterministic`."""
        mean, log_variance = self.heads.chunk(2, dim=1)
        log_variance = log_variance.clamp(*LOG_VARIANCE_RANGE)
        posterior = DiagonalGaussian(mean, (log_variance / 2).exp(), log_variance)
        output = Reconstruction(self.logits.sigmoid(), posterior)
        scores = offered_scores(self.statistics, None)
        found, mse, kl = (
            np.asarray(scores[each](self.pixels, output)) for each in (name, "mse", "kl")
        )
        return found, mse, kl

    def check(self, names: tuple[str, ...] = NAMES) -> None:
        for name in names:
            found, expected = self.native(name), self.torch(name)
            root = np.sqrt(expected[1])
            for what, ours, theirs in zip((name, "mse", "kl"), found, expected, strict=True):
                assert ours.dtype == np.float32
                atol: Any = 1e-5  # sums of both signs: their terms' rounding
                if what in ("mse", "mse_top5"):  # of squares: that of the roots
                    ours, theirs, atol = np.sqrt(ours), np.sqrt(theirs), SIGMOID_ATOL
                if what == "fused":  # a logarithm of squares, stretched
                    with np.errstate(divide="ignore"):
                        stretch = 2 / self.statistics.fused_tail.min().item()
                        atol = 1e-5 + stretch * SIGMOID_ATOL / root
                wrong = np.abs(ours - theirs) > atol + RTOL * np.abs(theirs)
                assert not wrong.any(), f"{what} beside {name}: {ours[wrong]}, not {theirs[wrong]}"
