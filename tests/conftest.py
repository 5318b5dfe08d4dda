"""Shared fixtures: real handwriting, the data sets, the service as a process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from model.bundle.bundle import find_bundle, load_bundle
from model.datasets.load import Split, load_images
from model.engine.engine import Engine
from tests.processes import STOP_TIMEOUT_S, restore_interrupts, running, start
from tests.processes import Server as Server

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure() -> None:
    restore_interrupts()


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


@pytest.fixture(scope="session")
def _ending() -> Iterator[list[Server]]:
    """Services that were told to stop: each is waited for at the end, and not by its test."""
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.process.wait(STOP_TIMEOUT_S)


@pytest.fixture
def start_server(
    tmp_path_factory: pytest.TempPathFactory, _ending: list[Server]
) -> Iterator[Callable[..., Server]]:
    """`start_server("--max-queue-images", "8")`: `python -m service` on a free port, ready, until
    the end of the test. Several tests share one by a fixture of their own that uses `running`."""
    started: list[Server] = []

    def start_one(*flags: str) -> Server:
        started.append(start(tmp_path_factory.mktemp("server") / "log", *flags))
        return started[-1]

    yield start_one
    for server in started:
        server.process.terminate()
    _ending += started


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The service with its default settings. Not for tests that change what it answers."""
    with running() as server:
        yield server
