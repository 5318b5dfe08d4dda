"""MLServer, with the same network inside.

`parallel_workers=0` keeps the network in the HTTP process: its own documentation has the pool for
models that keep a core busy, and a second process costs more here than a forward pass. Batching is
off unless there is a window, which every request that is alone waits out; so it is a tenth of a
millisecond. Past it a batch still takes all that has come.
"""

from __future__ import annotations

import asyncio
import tempfile

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import install_uvloop_event_loop

from benchmarks.peers.common import HOST, MAX_BATCH, Scorer, arguments


class ScoreRuntime(MLModel):  # type: ignore[misc] # no types here
    """A runtime of its own kind; the batch comes as one request."""

    async def load(self) -> bool:
        """Load the network."""
        self._scorer = Scorer()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The scores of the first tensor's rows."""
        images = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        scores = self._scorer(images.astype(np.float32, copy=False))
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("score", scores)]
        )


async def serve(port: int) -> None:
    """Until SIGTERM."""
    settings = Settings(
        host=HOST,
        http_port=port,
        grpc_port=0,  # cannot be switched off, so any that is free
        metrics_endpoint=None,
        parallel_workers=0,
        environments_dir=tempfile.gettempdir(),  # else in the working directory, as the next
        metrics_dir=tempfile.gettempdir(),
        debug=False,  # with it, there is an access log
    )
    model = ModelSettings(
        name="score", implementation=ScoreRuntime, max_batch_size=MAX_BATCH, max_batch_time=0.0001
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    install_uvloop_event_loop()  # as its own command does
    asyncio.run(serve(arguments().port))
