"""The promises about real data, over HTTP: what the README's table says."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from tests.processes import Server

LoadImages = Callable[[str], NDArray[np.uint8]]
CHUNK = 500


def png(image: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(image[0]).save(file, "PNG")
    return file.getvalue()


def scores(server: Server, images: NDArray[np.uint8]) -> list[float]:
    found: list[float] = []
    with server.client() as client:
        for start in range(0, len(images), CHUNK):
            files = [b64encode(png(image)).decode() for image in images[start : start + CHUNK]]
            answer = client.post("/anomaly-score", json={"images": files}).raise_for_status()
            found += answer.json()["score"]
    return found


def test_digits_posted_as_png_come_back(server: Server, test_images: LoadImages) -> None:
    images = test_images("mnist")[:1000]
    errors = []
    with server.client() as client:
        for image in images:
            answer = client.post(
                "/reconstruct",
                content=png(image),
                headers={"Content-Type": "image/png", "Accept": "image/png"},
            )
            back = np.asarray(Image.open(BytesIO(answer.raise_for_status().content)))
            errors.append(np.square((back.astype(float) - image[0]) / 255).mean())
    print(f"\n{len(images):,} MNIST test digits, PNG over HTTP and back: MSE {np.mean(errors):.4f}")
    assert np.mean(errors) <= 0.0125


@pytest.mark.slow
def test_fashion_scores_higher_than_digits(server: Server, test_images: LoadImages) -> None:
    digits, fashion = (scores(server, test_images(name)) for name in ("mnist", "fashion-mnist"))
    labels = [0] * len(digits) + [1] * len(fashion)
    auroc = roc_auc_score(labels, digits + fashion)
    print(f"\nMNIST → Fashion-MNIST, {len(labels):,} images over HTTP: AUROC {auroc:.4f}")
    assert auroc >= 0.995
