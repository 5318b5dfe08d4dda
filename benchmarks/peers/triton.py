"""Triton with its Python backend, started by PyTriton, with the same network inside.

Dynamic batching has its defaults, which its documentation recommends to begin with: batches as
large as possible up to the maximum, and no delay. No gRPC and no metrics.

The backend loads libpython by name. A Python that was built without `--enable-shared` has none; the
system then needs one of exactly the same version, such as Debian's libpython3.11.
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
        """The scores (N, 1) of a batch of images."""
        return {"score": scorer(images)[:, None]}

    # This Python's own libpython before the system's: another patch release would not fit the
    # standard library that it finds.
    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that `with` stops its server
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
