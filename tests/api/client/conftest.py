"""Both Python clients, and images as files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.client.helpers import Images, Use, use_async, use_sync
from tests.api.helpers import image_file
from tests.processes import Server


@pytest.fixture(params=[use_sync, use_async], ids=["sync", "async"])
def use(request: pytest.FixtureRequest) -> Use:
    """`use(url, "encode", images)`: one call by either client."""
    found: Use = request.param
    return found


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def paths(four: Images, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """`four` as files."""
    folder = tmp_path_factory.mktemp("digits")
    found = [folder / f"{i}.png" for i in range(len(four))]
    for path, image in zip(found, four, strict=True):
        path.write_bytes(image_file(image))
    return found
