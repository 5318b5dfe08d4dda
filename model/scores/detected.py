"""The scores and maps of a photograph by its detector.

N images, P = C·H·W pixels each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from model.features.detector import PARTS, Detector, Findings

COMBINED: Final = "combined"

DETECTED_SCORES: Final = (COMBINED, *PARTS)
"""The scores of networks that have a detector; the first is their default."""

CPU_ROWS: Final = 4
"""Images that go through a detector at a time on a CPU. More take 20 MiB each, and no less time."""


class DetectorScores:
    """What a detector says of images. It knows nothing of the network beside it.

    `run` computes the detector's columns from pixels, (N, P); by default the detector does.
    """

    def __init__(self, detector: Detector, run: Callable[[Tensor], Tensor] | None = None) -> None:
        self._detector = detector
        self._run = run or detector

    def find(self, pixels: Tensor) -> Findings:
        """What there is in images, (N, P)."""
        rows = CPU_ROWS if pixels.device.type == "cpu" else max(1, len(pixels))
        columns = [self._run(part) for part in torch.split(pixels, rows)]
        return self._detector.split(torch.cat(columns))

    def scores(self, findings: Findings) -> Tensor:
        """All of `DETECTED_SCORES`, in this order, (N, 4)."""
        combined = self._detector.combined(findings.parts)  # (N,)
        return torch.cat([combined[:, None], findings.parts], dim=1)

    def score(self, name: str, findings: Findings) -> Tensor:
        """The score `name`, one of `DETECTED_SCORES`, (N,)."""
        return self.scores(findings)[:, DETECTED_SCORES.index(name)]

    def map_of(self, name: str, findings: Findings) -> Tensor:
        """Its map, the same for each channel, (N, P). See `Detector` for its scale."""
        channels = self._detector.config.image_shape[0]
        image_map = self._detector.map_of(name, findings)  # (N, H, W)
        return image_map[:, None].expand(-1, channels, -1, -1).flatten(1)
