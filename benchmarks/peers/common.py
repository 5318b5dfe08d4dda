"""What all compared servers share, so that only the server differs.

The same weights and the same score on one thread: `model.engine.engine.Engine`, as in the service.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BUNDLE: Final = "mnist"

PIXELS: Final = 784

HOST: Final = "127.0.0.1"

MAX_BATCH: Final = 128
"""The service's `max_batch_images`. It counts images where the peer can, and else requests."""

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


def score_many(scorer: Scorer, requests: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
    """The scores of each request in a batch."""
    ends = np.cumsum([len(images) for images in requests])
    return np.split(scorer(requests), ends[:-1])


def arguments() -> argparse.Namespace:
    """Parse the command line: `--port`, and `--answer` for the servers with a fixed answer."""
    parser = argparse.ArgumentParser(description="Serve on 127.0.0.1 until SIGTERM.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer", default="{}", help="the fixed answer, if the server has one")
    return parser.parse_args()
