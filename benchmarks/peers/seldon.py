"""MLServer, with the same network inside.

`parallel_workers=0` keeps the network in the HTTP process: its documentation recommends the pool
for models that keep a core busy, and here a second process costs more than a forward pass. Batching
is off without a batch window, which every lone request waits out, so the window is a tenth of a
millisecond. A batch also takes requests that arrived after it.

Photographs do keep a core busy, but the pool of this release does not start with uvloop 0.23, so a
thread scores them. They are sent as base64 in JSON.
"""

from __future__ import annotations

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import install_uvloop_event_loop

from benchmarks.peers.common import (
    HOST,
    MAX_BATCH,
    MAX_PHOTOGRAPHS,
    PhotographScorer,
    Scorer,
    arguments,
)


class ScoreRuntime(MLModel):  # type: ignore[misc] # no types here
    """A custom runtime, which gets a batch as one request."""

    async def load(self) -> bool:
        """Load the network."""
        self._scorer = Scorer()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The scores of the rows of the first tensor."""
        images = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        scores = self._scorer(images.astype(np.float32, copy=False))
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("score", scores)]
        )


class PhotographRuntime(MLModel):  # type: ignore[misc] # no types here
    """The same for photographs: the first tensor of a batch has a file in each row."""

    async def load(self) -> bool:
        """Load the network from the directory that is the model's URI."""
        self._scorer = PhotographScorer(self.settings.parameters.uri)
        self._thread = ThreadPoolExecutor(max_workers=1)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The scores of the files in the first tensor."""
        files = self.decode(payload.inputs[0], default_codec=Base64Codec)
        loop = asyncio.get_running_loop()
        scores = await loop.run_in_executor(self._thread, self._scorer, files)
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("score", scores)]
        )


async def serve(port: int, bundle: str | None) -> None:
    """Serve until SIGTERM: photographs if there is a `bundle`, the directory of their network."""
    settings = Settings(
        host=HOST,
        http_port=port,
        grpc_port=0,  # cannot be disabled; 0 is any free port
        metrics_endpoint=None,
        parallel_workers=0,
        environments_dir=tempfile.gettempdir(),  # as the next: else in the working directory
        metrics_dir=tempfile.gettempdir(),
        debug=False,  # would enable the access log
    )
    model = ModelSettings(
        name="score",
        implementation=PhotographRuntime if bundle else ScoreRuntime,
        parameters=ModelParameters(uri=bundle),
        max_batch_size=MAX_PHOTOGRAPHS if bundle else MAX_BATCH,
        max_batch_time=0.0001,
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    given = arguments()
    install_uvloop_event_loop()  # as MLServer's own command does
    asyncio.run(serve(given.port, given.bundle))
