"""Copies of images, by their pixels."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

HASH_BYTES: Final = 8
"""Among 60,000 images, two different ones have the same hash with a probability of 1e-10."""

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]


def pixel_hashes(images: NDArray[np.uint8]) -> Hashes:
    """A hash of each of uint8 `images`, (N, C, H, W), by shape and pixels: (N,)."""
    shape = str(images.shape[1:]).encode()
    digests = b"".join(
        hashlib.blake2b(shape + image.tobytes(), digest_size=HASH_BYTES).digest()
        for image in images
    )
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def without_copies(hashes: Hashes) -> Indices:
    """Indices of the first image with each hash, in their order."""
    first: Indices = np.sort(np.unique(hashes, return_index=True)[1])
    return first
