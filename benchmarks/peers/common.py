"""What every server of the comparison shares, so that only the server differs.

The same weights and the same score on one thread: `model.engine.engine.Engine`, as the service has
it.
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
"""The service's own `max_batch_images`; of images where a peer counts them, else of requests."""

SCORE: Final = "fused"
"""The default of the bundle, and so of the service."""


class Scorer:
    """The engine behind one call."""

    def __init__(self) -> None:
        from model.bundle.bundle import find_bundle, load_bundle
        from model.engine.engine import Engine

        self._engine = Engine(load_bundle(find_bundle(BUNDLE)), device="cpu", threads=1)
        self._engine.warm_up(MAX_BATCH)

    def __call__(
        self, images: NDArray[Any] | Sequence[NDArray[Any]], score: str = SCORE
    ) -> NDArray[np.float32]:
        """The scores (N,) of images (N, 784), or of several such arrays in one forward pass."""
        return self._engine.score(images, score).score


def score_many(scorer: Scorer, requests: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
    """The scores of each request of a batch."""
    ends = np.cumsum([len(images) for images in requests])
    return np.split(scorer(requests), ends[:-1])


def arguments() -> argparse.Namespace:
    """The command line: `--port`, and `--answer` for the servers that always say the same."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer", default="{}")
    return parser.parse_args()
