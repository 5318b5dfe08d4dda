"""Clients of the Open Inference Protocol, and what goes into the models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]
from numpy.typing import NDArray

from tests.api.open_inference.helpers import Arrays
from tests.processes import Server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    """Triton's client with its defaults."""
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def version(http: httpx.Client) -> str:
    found: str = http.get("/model").json()["version"]
    return found


@pytest.fixture(scope="module")
def rows(four: NDArray[np.uint8]) -> Arrays:
    """What goes into the models, by the input's name."""
    z = np.random.default_rng(7).standard_normal((4, 10), dtype=np.float32)
    return {"images": (four / np.float32(255)).astype(np.float32), "z": z}
