"""What all compared servers share, so that only the server differs.

The same weights and the same score on one thread: `model.engine.engine.Engine`, as in the service.
With photographs more differs: the peers' environments have no ONNX Runtime, so the engine runs
torch there, and files are decoded at their full size.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BUNDLE: Final = "mnist"

PIXELS: Final = 784

HOST: Final = "127.0.0.1"

MAX_BATCH: Final = 128
"""The service's `max_batch_images`. It counts images where the peer can, and else requests."""

MAX_PHOTOGRAPHS: Final = 8
"""The same for photographs: the service's default for networks with a detector."""

SCORE: Final = "fused"
"""The default score of the bundle, and so of the service."""


class Scorer:
    """The engine as one callable."""

    def __init__(self) -> None:
        from model.bundle.bundle import find_bundle, load_bundle
        from model.engine.engine import Engine

        self._engine = Engine(load_bundle(find_bundle(BUNDLE)), device="cpu", threads=1)
        self._engine.warm_up(MAX_BATCH)

    def __call__(
        self, images: NDArray[Any] | Sequence[NDArray[Any]], score: str = SCORE
    ) -> NDArray[np.float32]:
        """The scores (N,) of images (N, 784), or of a list of such arrays in one forward pass."""
        return self._engine.score(images, score).score


class PhotographScorer:
    """The engine of a bundle, given its directory, and the decoding of photographs for it."""

    def __init__(self, directory: str) -> None:
        from model.bundle.bundle import load_bundle
        from model.engine.engine import Engine

        bundle = load_bundle(Path(directory))
        self._engine = Engine(bundle, device="cpu", threads=1)
        self._engine.warm_up(MAX_PHOTOGRAPHS)
        self._image_shape = bundle.config.image_shape

    def read(self, file: bytes) -> NDArray[np.uint8]:
        """The pixels (1, P) of an image file."""
        return self.pixels(Image.open(BytesIO(file)))

    def pixels(self, photograph: Image.Image) -> NDArray[np.uint8]:
        """The pixels (1, P) of a photograph that Pillow has opened."""
        return whole_image(photograph, self._image_shape)

    def score(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """The default scores (N,) of N images, each (1, P), in one forward pass."""
        return self._engine.score(images).score

    def __call__(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        """The default scores (N,) of N image files."""
        return self.score([self.read(file) for file in files])


def whole_image(photograph: Image.Image, image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The pixels (1, P) of a photograph, decoded at its full size and then resized.

    For networks with colour images of `image_shape`, (3, H, W).
    """
    _, height, width = image_shape
    small = photograph.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(small).transpose(2, 0, 1).reshape(1, -1)


def score_many(scorer: Scorer, requests: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
    """The scores of each request in a batch."""
    ends = np.cumsum([len(images) for images in requests])
    return np.split(scorer(requests), ends[:-1])


def arguments() -> argparse.Namespace:
    """Parse the command line: `--port`, and what else a server needs."""
    parser = argparse.ArgumentParser(description="Serve on 127.0.0.1 until SIGTERM.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer", default="{}", help="the fixed answer, if the server has one")
    parser.add_argument("--bundle", help="score photographs, with the network in this directory")
    return parser.parse_args()
