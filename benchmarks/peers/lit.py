"""LitServe, with the same network inside.

`fast_queue` is what its documentation recommends above 100 requests/s. There is no batch window,
which is its default: a batch is what arrived while the last one ran. The worker then polls its
queue in a busy loop, which uses a core even when idle, yet it answers more requests than with a
window of a millisecond.

Photographs are sent as base64 in JSON, and decoded in the worker.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

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


class ScoreAPI(litserve.LitAPI):  # type: ignore[misc] # no types here
    """A batch is a list of requests, each with its own images."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - its own name
        """Load the network, once in the worker."""
        self._scorer = Scorer()

    # No annotations: LitServe would use them as the body's schema.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """JSON to pixels."""
        return np.asarray(request["images"], dtype=np.float32)

    def batch(self, inputs: list[Rows]) -> list[Rows]:
        """Leave the requests apart: the engine joins them."""
        return inputs

    def predict(self, x: list[Rows]) -> list[Rows]:
        """One forward pass for all of them."""
        return score_many(self._scorer, x)

    def unbatch(self, output: list[Rows]) -> list[Rows]:
        """The requests are still apart."""
        return output

    def encode_response(self, output: Rows) -> dict[str, Any]:
        """Scores to JSON."""
        return {"score": output.tolist()}


class PhotographAPI(litserve.LitAPI):  # type: ignore[misc] # no types here
    """The same for photographs, one in each request."""

    bundle: str

    def setup(self, device: str) -> None:  # noqa: ARG002 - its own name
        """Load the network, once in the worker."""
        self._scorer = PhotographScorer(self.bundle)

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """JSON to pixels."""
        return self._scorer.read(b64decode(request["photo"]))

    def batch(self, inputs: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """Leave the photographs apart: the engine joins them."""
        return inputs

    def predict(self, x: list[NDArray[np.uint8]]) -> Rows:
        """One forward pass for all of them."""
        return self._scorer.score(x)

    def encode_response(self, output: np.float32) -> dict[str, Any]:
        """A score to JSON."""
        return {"score": [float(output)]}


if __name__ == "__main__":
    given = arguments()
    kind, batch = (PhotographAPI, MAX_PHOTOGRAPHS) if given.bundle else (ScoreAPI, MAX_BATCH)
    api = kind(max_batch_size=batch, batch_timeout=0.0, api_path="/score")
    if given.bundle:
        api.bundle = given.bundle
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host=HOST,
        port=given.port,
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
