"""LitServe, with the same network inside.

`fast_queue` is what its documentation recommends above 100 requests/s. There is no batch window,
which is its default: a batch is what arrived while the last one ran. The worker then polls its
queue in a busy loop, which uses a core even when idle, yet it answers more requests than with a
window of a millisecond.
"""

from __future__ import annotations

from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.common import HOST, MAX_BATCH, Scorer, arguments, score_many

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


if __name__ == "__main__":
    given = arguments()
    api = ScoreAPI(max_batch_size=MAX_BATCH, batch_timeout=0.0, api_path="/score")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host=HOST,
        port=given.port,
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
