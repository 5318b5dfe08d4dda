"""Baselines: trivial scores that need no network, and that a network's scores have to beat.

Either end of a baseline may be the anomalous one: a set may be darker or brighter than the clean
images.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Values = NDArray[np.float64]


def trivial_scores(images: NDArray[np.uint8]) -> dict[str, Values]:
    """Scores of uint8 `images`, (N, C, H, W): (N,) by name."""
    flat = images.reshape(len(images), -1)
    return {
        "mean intensity": flat.mean(axis=1) / 255,
        "share of zero pixels": (flat == 0).mean(axis=1),
        "PNG size": np.array([png_bytes(image) for image in images], np.float64),
    }


def png_bytes(image: NDArray[np.uint8]) -> int:
    """Size in bytes of one image, (C, H, W), as a PNG file at Pillow's default compression."""
    file = BytesIO()
    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    Image.fromarray(pixels).save(file, "PNG")
    return file.tell()
