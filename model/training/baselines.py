"""Baselines: trivial scores that need no network, and that a network's scores have to beat.

Either end of a baseline may be the anomalous one: a set may be darker or brighter than the clean
images.
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
"""Maximum number of pixels to fit the PCA to, 256 MB as float32. MNIST's training set fits."""

CHUNK_NUMBERS: Final = 1 << 22
"""Maximum number of pixels in one pass of the PCA, 16 MB as float32."""


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


class PcaError:
    """Squared error of a reconstruction from ten principal components: a linear autoencoder.

    It is fitted to uint8 `images`, (N, C, H, W), or to evenly spaced ones where all of them would
    exceed `MAX_PCA_NUMBERS`.
    """

    name: Final = f"PCA-{PCA_COMPONENTS} error"

    def __init__(self, images: NDArray[np.uint8]) -> None:
        pixels = images[0].size
        step = max(1, -(-len(images) * pixels // MAX_PCA_NUMBERS))
        sample = _flat(images[::step])
        components = min(PCA_COMPONENTS, *sample.shape)
        # If all images are alike there is no variance, and each component's share of it is 0 / 0.
        with np.errstate(invalid="ignore", divide="ignore"):
            self._pca = PCA(components, random_state=0).fit(sample)

    def __call__(self, images: NDArray[np.uint8]) -> Values:
        """Mean squared error over the pixels of `images`, (N, C, H, W): (N,)."""
        chunk = max(1, CHUNK_NUMBERS // images[0].size)
        return np.concatenate(
            [self._errors(_flat(images[i : i + chunk])) for i in range(0, len(images), chunk)]
        )

    def _errors(self, flat: NDArray[np.float32]) -> Values:
        reconstructed: NDArray[Any] = self._pca.inverse_transform(self._pca.transform(flat))
        errors: Values = np.square(flat - reconstructed).mean(axis=1, dtype=np.float64)
        return errors


def _flat(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
