"""FastAPI as one would write it in an afternoon: a pydantic body, a forward pass for each request.

The weights are the same. The score is the mean squared error, which is less work than the default
score of the others.
"""

from __future__ import annotations

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.peers.common import BUNDLE, HOST, arguments
from model.bundle.bundle import find_bundle, load_bundle


class Images(BaseModel):
    """The images to score, each as a row of numbers in [0, 1]."""

    images: list[list[float]]


class Scores(BaseModel):
    """The mean squared error of each image."""

    score: list[float]


def create_app() -> FastAPI:
    """An application with the network in memory."""
    app = FastAPI()
    torch.set_num_threads(1)
    network = load_bundle(find_bundle(BUNDLE)).network()

    @app.post("/score")
    def score(body: Images) -> Scores:
        with torch.inference_mode():
            pixels = torch.tensor(body.images)
            error = (pixels - network(pixels).images).square().mean(dim=1)
            return Scores(score=error.tolist())

    return app


if __name__ == "__main__":
    given = arguments()
    uvicorn.run(create_app(), host=HOST, port=given.port, access_log=False, log_level="warning")
