"""Triton with its Python backend, started by PyTriton, with the same network inside.

Dynamic batching has its defaults, which its documentation recommends to begin with: batches as
large as possible up to the maximum, and no delay. No gRPC and no metrics.

Photographs are strings in a binary tensor, which is how Triton's own client sends bytes.

The backend loads libpython by name. A Python that was built without `--enable-shared` has none; the
system then needs one of exactly the same version, such as Debian's libpython3.11.
"""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.common import (
    HOST,
    MAX_BATCH,
    MAX_PHOTOGRAPHS,
    PIXELS,
    PhotographScorer,
    Scorer,
    arguments,
)

Infer = Callable[..., dict[str, NDArray[np.float32]]]


def images_scorer() -> Infer:
    """A function from a batch of images, (N, 784), to their scores, (N, 1)."""
    scorer = Scorer()

    def score(images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {"score": scorer(images)[:, None]}

    return score


def photographs_scorer(directory: str) -> Infer:
    """A function from a batch of image files, (N, 1), to their scores, (N, 1)."""
    scorer = PhotographScorer(directory)

    def score(photo: NDArray[np.object_]) -> dict[str, NDArray[np.float32]]:
        return {"score": scorer(photo[:, 0].tolist())[:, None]}

    return score


if __name__ == "__main__":
    given = arguments()
    if given.bundle:
        score, max_batch = photographs_scorer(given.bundle), MAX_PHOTOGRAPHS
        tensor = Tensor(name="photo", dtype=bytes, shape=(1,))
    else:
        score, max_batch = images_scorer(), MAX_BATCH
        tensor = Tensor(name="images", dtype=np.float32, shape=(PIXELS,))

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
            infer_func=batch(score),
            inputs=[tensor],
            outputs=[Tensor(name="score", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=max_batch, batcher=DynamicBatcher()),
        )
        triton.serve()
