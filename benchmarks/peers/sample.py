"""The images that every server is measured with, and the scores it has to return for them."""

from __future__ import annotations

import json
from functools import cache
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.peers.common import BUNDLE, PIXELS, SCORE, Scorer

IMAGES: Final = 64

DIGITS: Final = 256


@cache
def digits() -> NDArray[np.uint8]:
    """Images (256, 28, 28) drawn by the decoder from fixed latents, so they look like digits."""
    from model.bundle.bundle import find_bundle, load_bundle
    from model.engine.engine import Engine

    engine = Engine(load_bundle(find_bundle(BUNDLE)), device="cpu", threads=1)
    z = np.random.default_rng(0).standard_normal((DIGITS, 10), dtype=np.float32)
    pixels: NDArray[np.uint8] = np.rint(engine.decode(z).images[:, 0] * 255).astype(np.uint8)
    return pixels


def png(image: NDArray[np.uint8]) -> bytes:
    """The PNG file of one image (H, W)."""
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@cache
def sample_images() -> NDArray[np.float64]:
    """The first 64 of `digits`, (64, 784) in [0, 1], rounded to four decimals as callers do."""
    images: NDArray[np.float64] = (digits()[:IMAGES].reshape(IMAGES, PIXELS) / 255).round(4)
    return images


@cache
def expected_scores(score: str) -> NDArray[np.float32]:
    """The right score of each of `sample_images`, (64,)."""
    return Scorer()(sample_images().astype(np.float32), score)


def fixed_answer() -> str:
    """What a server with a fixed answer returns: the service's own answer for the first image."""
    score = [float(expected_scores(SCORE)[0])]
    answer = {"model": "mnist", "score_type": SCORE, "alpha": 0.01, "threshold": 6.5}
    answer |= {"score": score, "p_value": [0.25], "is_anomaly": [False]}
    return json.dumps(answer | {"mse": [0.0123], "kl": [21.5]}, separators=(",", ":"))
