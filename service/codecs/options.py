"""Options for reading images and latents: the network's shapes, the limits, and the caller's
choices."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from model.images.preprocessing import WHOLE, Preprocessing

Pixels = NDArray[np.uint8] | NDArray[np.float32]
"""Images, (N, C·H·W): uint8 in 0..255, or float32 in [0, 1]."""

Latents = NDArray[np.float32]
"""Latents, (N, D)."""

Dtype = Literal["uint8", "float32"]

DTYPES: Final[dict[str, Any]] = {"uint8": np.dtype("u1"), "float32": np.dtype("<f4")}


class FileReport(TypedDict):
    """What an image file is, and what was done to it."""

    format: str
    width: int
    """In pixels, of the image when it is upright, as is `height`."""
    height: int
    mode: str
    """Pillow's name of how its pixels are stored, such as RGBA."""
    orientation: int
    """As in EXIF, 1 to 8."""
    actions: list[str]


@dataclass(kw_only=True, slots=True)
class ImageOptions:
    """The network's image shape, the service's limits, and what the caller chose by headers and
    query."""

    shape: tuple[int, int, int]  # C, H, W
    preprocessing: Preprocessing = WHOLE
    max_images: int
    max_image_pixels: int
    content_type: str = ""
    dtype: Dtype | None = None
    resize: bool = True
    invert: bool = False
    bits: int | None = None
    """Bits that 16-bit files use."""
    deadline: float = math.inf
    """On `time.perf_counter`'s clock. No file is decoded after it."""
    query_names: Collection[str] = ()
    """The route's query parameters, which some callers put into the body."""
    warnings: list[str] = field(default_factory=list)
    """What the caller should know of how the images were read. Readers add to it."""
    files: dict[int, FileReport] | None = None
    """If it is there, readers add what each image file is, by its position among the images."""

    @property
    def pixels(self) -> int:
        """The pixels of one image, C·H·W."""
        return math.prod(self.shape)

    @property
    def item_shapes(self) -> list[tuple[int, ...]]:
        """The shapes in which one image may be given as numbers."""
        return item_shapes(self.shape)


@dataclass(frozen=True, kw_only=True)
class LatentOptions:
    """The network's latent size, and the service's limit."""

    size: int  # D
    max_images: int
    query_names: Collection[str] = ()
    """As in `ImageOptions`."""


def item_shapes(image_shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """The shapes in which one image may be given as numbers: [H, W] if grey, [C, H, W] or flat."""
    channels, height, width = image_shape
    grey: list[tuple[int, ...]] = [(height, width)] if channels == 1 else []
    return [*grey, image_shape, (math.prod(image_shape),)]
