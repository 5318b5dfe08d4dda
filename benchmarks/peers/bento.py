"""BentoML, with the same network inside.

It chooses the batch window itself. `max_latency_ms` only bounds it, and requests that are estimated
to take longer get 503, so it is far above what a request takes here. uvloop and httptools are
installed too, as uvicorn uses them if they are there.
"""

from __future__ import annotations

import os
import sys

import bentoml
import numpy as np

from benchmarks.peers.common import HOST, MAX_BATCH, Scorer, arguments


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


if __name__ == "__main__":
    port = str(arguments().port)
    service = f"{__spec__.name}:Score"
    os.execv(  # noqa: S606 - a fixed command
        sys.executable,
        [sys.executable, "-m", "bentoml", "serve", service, "--host", HOST, "--port", port],
    )
