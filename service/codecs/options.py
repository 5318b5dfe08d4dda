"""What a request may ask of its images and latents, and what the network takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8] | NDArray[np.float32]
"""Images, (N, C·H·W): 0..255, or in [0, 1]."""

Latents = NDArray[np.float32]
"""(N, D)."""

Dtype = Literal["uint8", "float32"]

DTYPES: Final[dict[str, Any]] = {"uint8": np.dtype("u1"), "float32": np.dtype("<f4")}


@dataclass(kw_only=True, slots=True)
class ImageOptions:
    """What the network takes, what the service allows, and what the caller said beside the body."""

    shape: tuple[int, int, int]  # C, H, W
    max_images: int
    max_image_pixels: int
    content_type: str = ""
    dtype: Dtype | None = None
    resize: bool = True
    invert: bool = False
    deadline: float = math.inf
    """On `time.perf_counter`'s clock; no further file is decoded after it."""

    @property
    def pixels(self) -> int:
        """C·H·W."""
        return math.prod(self.shape)

    @property
    def item_shapes(self) -> list[tuple[int, ...]]:
        """Shapes that the numbers of one image may have."""
        return item_shapes(self.shape)


@dataclass(frozen=True, kw_only=True)
class LatentOptions:
    """What the decoder takes and what the service allows."""

    size: int  # D
    max_images: int


def item_shapes(image_shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """Shapes that the numbers of one image may have: [H,W] if grey, [C,H,W] or flat."""
    channels, height, width = image_shape
    grey: list[tuple[int, ...]] = [(height, width)] if channels == 1 else []
    return [*grey, image_shape, (math.prod(image_shape),)]
