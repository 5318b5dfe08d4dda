"""BentoML, with the same network inside.

It chooses the batch window itself. `max_latency_ms` only bounds it, and requests that are estimated
to take longer get 503, so it is far above what a request takes here. uvloop and httptools are
installed too, as uvicorn uses them if they are there.

Photographs are uploaded as forms, which BentoML opens as Pillow images. They are scored one by one,
as decoding takes longer than the network and gains nothing from batches.
"""

from __future__ import annotations

import os
import sys
from typing import Final

import bentoml
import numpy as np
from PIL.Image import Image as Photograph

from benchmarks.peers.common import HOST, MAX_BATCH, PhotographScorer, Scorer, arguments

DIRECTORY: Final = "BENCH_BUNDLE"
"""Environment variable with the bundle's directory: the service is created in another process."""


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Score:
    """One worker with the network in memory."""

    def __init__(self) -> None:
        self._scorer = Scorer()

    @bentoml.api(  # type: ignore[untyped-decorator] # no types here
        batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=10_000
    )
    def score(self, images: np.ndarray) -> np.ndarray:
        """The scores (N,) of a batch of images, (N, 784)."""
        return self._scorer(images.astype(np.float32))


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class PhotographScore:
    """One worker with a network for photographs in memory."""

    def __init__(self) -> None:
        self._scorer = PhotographScorer(os.environ[DIRECTORY])

    @bentoml.api  # type: ignore[untyped-decorator] # no types here
    def score(self, photo: Photograph) -> list[float]:
        """The score of one photograph, in a list."""
        scores: list[float] = self._scorer.score([self._scorer.pixels(photo)]).tolist()
        return scores


if __name__ == "__main__":
    given = arguments()
    port = str(given.port)
    service = f"{__spec__.name}:{'PhotographScore' if given.bundle else 'Score'}"
    if given.bundle:
        os.environ[DIRECTORY] = given.bundle
    os.execv(  # noqa: S606 - a fixed command
        sys.executable,
        [sys.executable, "-m", "bentoml", "serve", service, "--host", HOST, "--port", port],
    )
