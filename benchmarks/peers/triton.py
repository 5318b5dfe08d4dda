"""Triton with its Python backend, as PyTriton starts it, with the same network inside.

Dynamic batching by its defaults, which are what its documentation says to begin with: as large as
possible up to the maximum, and no delay. No gRPC and no metrics.

Its backend loads libpython by name. Where this Python has none (it was built without
`--enable-shared`), the system's has to be there, of just this version: Debian's libpython3.11.
"""

from __future__ import annotations

import os
import signal
import sys
import sysconfig

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.common import HOST, MAX_BATCH, PIXELS, Scorer, arguments

if __name__ == "__main__":
    given = arguments()
    scorer = Scorer()

    @batch  # type: ignore[untyped-decorator] # no types here
    def score(images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The scores of a batch of images, (N, 1)."""
        return {"score": scorer(images)[:, None]}

    # This Python's own libpython before the system's: another patch release of it finds a standard
    # library that it does not fit.
    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that it stops its server
    config = TritonConfig(
        http_address=HOST, http_port=given.port, allow_grpc=False, allow_metrics=False
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="score",
            infer_func=score,
            inputs=[Tensor(name="images", dtype=np.float32, shape=(PIXELS,))],
            outputs=[Tensor(name="score", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=MAX_BATCH, batcher=DynamicBatcher()),
        )
        triton.serve()
