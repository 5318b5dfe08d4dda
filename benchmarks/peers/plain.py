"""FastAPI as one would write it in an afternoon: a pydantic body, a forward pass for each request.

The weights are the same. The score is the mean squared error, which is less work than the default
score of the others. Photographs are uploaded as forms; where the network has a detector, its score
replaces the error.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Annotated

import torch
import uvicorn
from fastapi import FastAPI, File
from PIL import Image
from pydantic import BaseModel

from benchmarks.peers.common import BUNDLE, HOST, arguments, whole_image
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


def create_photograph_app(directory: Path) -> FastAPI:
    """An application that scores photographs, with the network of a bundle."""
    app = FastAPI()
    torch.set_num_threads(1)
    bundle = load_bundle(directory)
    network = bundle.network()
    detector = bundle.detector.module() if bundle.detector else None

    @app.post("/score")
    def score(photo: Annotated[bytes, File()]) -> Scores:
        image = whole_image(Image.open(BytesIO(photo)), bundle.config.image_shape)
        with torch.inference_mode():
            pixels = torch.from_numpy(image).float() / 255
            if detector:
                findings = detector.split(detector(pixels))
                return Scores(score=detector.combined(findings.parts).tolist())
            error = (pixels - network(pixels).images).square().mean(dim=1)
            return Scores(score=error.tolist())

    return app


if __name__ == "__main__":
    given = arguments()
    app = create_photograph_app(Path(given.bundle)) if given.bundle else create_app()
    uvicorn.run(app, host=HOST, port=given.port, access_log=False, log_level="warning")
