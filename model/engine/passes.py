"""Each kind of forward pass, written in torch: runs wherever the weights are, for any network.

N images, P = C·H·W pixels each in [0, 1], D latent dimensions. All tensors are float32 and on the
network's device. Results are columns side by side in one tensor, so that a GPU sends back one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from model.bundle.bundle import Bundle
from model.features.detector import Findings
from model.scores.detected import DETECTED_SCORES, DetectorScores
from model.scores.deterministic import mean_squared_error, offered_scores
from model.vae import VAE, Reconstruction


class Passes:
    """The forward passes of one bundle's network."""

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device,
        dtype: str,
        detect: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.network = bundle.network().to(device, getattr(torch, dtype))
        statistics = bundle.statistics and bundle.statistics.to(device)
        self._scores = offered_scores(statistics, bundle.pixel_variance)
        self._detected: DetectorScores | None = None
        if bundle.detector is not None:
            # In float32, whatever the type of the network's products.
            detector = bundle.detector.module().to(device)
            self._detected = DetectorScores(detector, detect)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels, (N, P), to μ and σ, (N, D + D)."""
        posterior = self.network.encode(pixels)
        return torch.cat([posterior.mean, posterior.std], dim=1)  # (N, 2D)

    def decode(self, z: Tensor) -> Tensor:
        """Latents, (N, D), to pixels, (N, P)."""
        return self.network.decode(z)

    def reconstruct(self, pixels: Tensor) -> Tensor:
        """Pixels, (N, P), to those decoded from z = μ, and their MSE, (N, P + 1)."""
        output = self.network(pixels)
        mse = mean_squared_error(pixels, output)
        return torch.cat([output.images, mse[:, None]], dim=1)  # (N, P + 1)

    def score(self, name: str, pixels: Tensor) -> Tensor:
        """Pixels, (N, P), to score, MSE and KL, (N, 3)."""
        return self.score_columns(name, pixels, *heads_and_logits(self.network, pixels))

    def detected_scores(self, pixels: Tensor) -> Tensor:
        """Pixels, (N, P), to MSE, KL and all of `DETECTED_SCORES`, (N, 2 + 4)."""
        assert self._detected is not None  # noqa: S101 - for mypy: the caller has checked
        scores = self._detected.scores(self._detected.find(pixels))  # (N, 4)
        return torch.cat([self.score("mse", pixels)[:, 1:], scores], dim=1)

    def score_map(self, name: str, pixels: Tensor) -> Tensor:
        """Pixels, (N, P), to score, MSE, KL and the score's map, (N, 3 + P)."""
        return self.map_columns(name, pixels, *heads_and_logits(self.network, pixels))

    def map_columns(self, name: str, pixels: Tensor, heads: Tensor, logits: Tensor) -> Tensor:
        """Score, MSE, KL and the map, (N, 3 + P), from what `heads_and_logits` made of pixels.

        The map is the detector's for its own scores, and else the squared error of each pixel.
        """
        if self._detected is None or name not in DETECTED_SCORES:
            anomaly_map = (pixels - logits.sigmoid()).square()
            columns = self.score_columns(name, pixels, heads, logits)
            return torch.cat([columns, anomaly_map], dim=1)  # (N, 3 + P)
        findings = self._detected.find(pixels)
        columns = self.score_columns(name, pixels, heads, logits, findings)
        return torch.cat([columns, self._detected.map_of(name, findings)], dim=1)

    def score_columns(
        self,
        name: str,
        pixels: Tensor,
        heads: Tensor,
        logits: Tensor,
        findings: Findings | None = None,
    ) -> Tensor:
        """Score, MSE and KL, (N, 3), from what `heads_and_logits` made of pixels, (N, P).

        `findings` are those of the detector, if they are known already. Raises `KeyError` for an
        unknown score.
        """
        output = Reconstruction(logits.sigmoid(), self.network.posterior(heads))
        mse = mean_squared_error(pixels, output)
        if self._detected is not None and name in DETECTED_SCORES:
            found = findings or self._detected.find(pixels)
            score = self._detected.score(name, found)
        else:
            score = self._scores[name](pixels, output)
        return torch.stack([score, mse, output.posterior.kl()], dim=1)  # (N, 3)


def heads_and_logits(network: VAE, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Encode pixels, (N, P), and decode z = μ: heads, (N, 2D), and logits, (N, P)."""
    heads = network.heads(pixels)
    return heads, network.logits(network.posterior(heads).mean)
