"""Trivial scores, which need no network: what a network's score has to be better than.

Any of them may point either way: a set may be darker than the clean images, or brighter.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA

Values = NDArray[np.float64]

PCA_COMPONENTS: Final = 10

MAX_PCA_NUMBERS: Final = 1 << 26
"""Pixels in the images that the PCA is fitted to: 256 MB; all of MNIST's training images fit."""

CHUNK_NUMBERS: Final = 1 << 22
"""Pixels in one pass of the PCA: 16 MB."""


def trivial_scores(images: NDArray[np.uint8]) -> dict[str, Values]:
    """By name, (N,) each, of `images` (N, C, H, W)."""
    flat = images.reshape(len(images), -1)
    return {
        "mean intensity": flat.mean(axis=1) / 255,
        "share of zero pixels": (flat == 0).mean(axis=1),
        "PNG size": np.array([png_bytes(image) for image in images], np.float64),
    }


def png_bytes(image: NDArray[np.uint8]) -> int:
    """Size of one image, (C, H, W), as a PNG file with Pillow's usual compression."""
    file = BytesIO()
    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    Image.fromarray(pixels).save(file, "PNG")
    return file.tell()


class PcaError:
    """Squared error of a reconstruction from ten principal components: a VAE without a network.

    Fitted to as many of the images, (N, C, H, W), as `MAX_PCA_NUMBERS` leaves room for.
    """

    name: Final = f"PCA-{PCA_COMPONENTS} error"

    def __init__(self, images: NDArray[np.uint8]) -> None:
        pixels = images[0].size
        step = max(1, -(-len(images) * pixels // MAX_PCA_NUMBERS))
        fitted = _flat(images[::step])
        components = min(PCA_COMPONENTS, *fitted.shape)
        with np.errstate(
            invalid="ignore", divide="ignore"
        ):  # shares of no variance, of like images
            self._pca = PCA(components, random_state=0).fit(fitted)

    def __call__(self, images: NDArray[np.uint8]) -> Values:
        """Mean over the pixels, (N,)."""
        chunk = max(1, CHUNK_NUMBERS // images[0].size)
        return np.concatenate(
            [self._errors(_flat(images[i : i + chunk])) for i in range(0, len(images), chunk)]
        )

    def _errors(self, flat: NDArray[np.float32]) -> Values:
        found: NDArray[Any] = self._pca.inverse_transform(self._pca.transform(flat))
        errors: Values = np.square(flat - found).mean(axis=1, dtype=np.float64)
        return errors


def _flat(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
