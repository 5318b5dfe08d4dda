"""Ray Serve, with the same network inside.

One replica, no access log and no dashboard. There is no batch window, which every lone request
would have to wait out: a batch is what arrived while the last one ran.

`RAY_SERVE_THROUGHPUT_OPTIMIZED` and `RAY_SERVE_ENABLE_HA_PROXY` are what its documentation
recommends for throughput: HAProxy, here with one thread, replaces Ray's own proxy and handles
several times as many requests. With it, Ray listens on all addresses of the machine whatever `host`
is.

A photograph is the body of a request. The replica decodes and scores them in batches.
"""

from __future__ import annotations

import signal
import tempfile
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.common import (
    HOST,
    MAX_BATCH,
    MAX_PHOTOGRAPHS,
    PhotographScorer,
    Scorer,
    arguments,
    score_many,
)

Rows = NDArray[np.float32]


def images_in(batch: list[Any]) -> int:
    """The size of a batch in images. Ray counts requests by default."""
    return sum(len(item) for item in batch)


@serve.deployment(num_replicas=1, max_ongoing_requests=4 * MAX_BATCH)
class Score:
    """The replica with the network in memory."""

    def __init__(self) -> None:
        self._scorer = Scorer()

    @serve.batch(  # type: ignore[untyped-decorator] # no types here
        max_batch_size=MAX_BATCH, batch_wait_timeout_s=0, batch_size_fn=images_in
    )
    async def _score(self, requests: list[Rows]) -> list[Rows]:
        return score_many(self._scorer, requests)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer one request."""
        images = np.asarray((await request.json())["images"], dtype=np.float32)
        return {"score": (await self._score(images)).tolist()}


@serve.deployment(num_replicas=1, max_ongoing_requests=4 * MAX_PHOTOGRAPHS)
class PhotographScore:
    """The replica with a network for photographs in memory."""

    def __init__(self, directory: str) -> None:
        self._scorer = PhotographScorer(directory)

    @serve.batch(  # type: ignore[untyped-decorator] # no types here
        max_batch_size=MAX_PHOTOGRAPHS, batch_wait_timeout_s=0
    )
    async def _score(self, files: list[bytes]) -> list[float]:
        scores: list[float] = self._scorer(files).tolist()
        return scores

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer one request."""
        return {"score": [await self._score(await request.body())]}


if __name__ == "__main__":
    given = arguments()
    ray.init(include_dashboard=False, log_to_driver=False, _temp_dir=tempfile.gettempdir())
    quiet = {"enable_access_log": False, "log_level": "WARNING"}
    serve.start(http_options={"host": HOST, "port": given.port}, logging_config=quiet)
    digits: Any = Score  # as a class, it has no `bind`
    photographs: Any = PhotographScore
    bound = photographs.bind(given.bundle) if given.bundle else digits.bind()
    serve.run(bound, route_prefix="/score", logging_config=quiet)
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
