"""The app under test, and a client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import orjson
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray

from service.app import App, create_app
from service.settings import Settings
from tests.api.bodies import JSON, Array, Images, mu
from tests.api.helpers import SMALL, client_of, uint8_body


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def app() -> App:
    """With the default settings. Not for tests that change its engine."""
    return create_app(Settings(threads=1))


@pytest.fixture
async def client(app: App) -> AsyncIterator[AsyncClient]:
    async with client_of(app) as client:
        yield client


@pytest.fixture
def small_app() -> App:
    """With limits that a test can reach, and an engine of its own that it may break."""
    return create_app(SMALL)


@pytest.fixture
async def small_client(small_app: App) -> AsyncIterator[AsyncClient]:
    async with client_of(small_app) as client:
        yield client


@pytest.fixture(scope="session")
def four(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Four digits, (4, 1, 28, 28)."""
    return digits[:4]


@pytest.fixture(scope="session")
def digit(four: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One digit, (28, 28)."""
    found: NDArray[np.uint8] = four[2, 0]
    return found


@pytest.fixture
async def mu_of_four(client: AsyncClient, four: Images) -> Array:
    """μ of `four`, (4, 10), by JSON."""
    return await mu(client, orjson.dumps(uint8_body(four)), JSON)
