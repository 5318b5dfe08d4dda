"""What many tests need: real handwriting, the data sets, the service as a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from model.bundle.bundle import find_bundle, load_bundle
from model.engine.engine import Engine
from model.training.data import Split, load_images

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Other processes of a test need the other core, and results depend on the thread count."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> NDArray[np.uint8]:
    """Real handwriting that needs no download: scikit-learn's 8×8 digits, made (N, 1, 28, 28).

    Each is scaled to 20×20 and centred, as MNIST's are.
    """
    small = (load_digits().images / 16 * 255).round().astype(np.uint8)
    images = np.zeros((len(small), 1, 28, 28), dtype=np.uint8)
    for image, digit in zip(images, small, strict=True):
        scaled = Image.fromarray(digit).resize((20, 20), Image.Resampling.BICUBIC)
        image[0, 4:24, 4:24] = np.asarray(scaled)
    return images


@pytest.fixture(scope="session")
def test_images() -> Callable[[str], NDArray[np.uint8]]:
    """`test_images("mnist")`: a data set's test images, (N, 1, 28, 28)."""
    return lambda name: real_images(name, "test")


@pytest.fixture(scope="session")
def training_images() -> Callable[[str], NDArray[np.uint8]]:
    """`training_images("mnist")`: a data set's training images, (N, 1, 28, 28)."""
    return lambda name: real_images(name, "train")


def real_images(name: str, split: Split) -> NDArray[np.uint8]:
    directory = SHARED_DATA / name
    if not directory.is_dir():
        reason = f"the data set {name} is not at {directory}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return load_images(directory, split, image_shape=(1, 28, 28)).images


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The default network."""
    return Engine(load_bundle(find_bundle("mnist")), device="cpu", threads=1)


@dataclass(frozen=True)
class Server:
    """A running service."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)


@pytest.fixture(scope="session")
def start_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Server]]:
    """`start_server("--max-queue-images", "8")`: `python -m service` on a free port, ready."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*flags: str) -> Server:
        log = tmp_path_factory.mktemp("server") / "log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "service", "--port", "0", *flags], stderr=stderr
            )
        started.append(process)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            for line in log.read_text().splitlines():
                if "running on http" in line:
                    url = line.split("running on ")[1].split()[0]
                    return Server(url, process, log)
            time.sleep(0.02)
        raise AssertionError(f"the service did not start: {log.read_text()}")

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.wait(STOP_TIMEOUT_S)


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Server]) -> Server:
    """The service with its default settings."""
    return start_server()
