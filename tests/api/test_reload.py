"""Reloading the bundle of a running service."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray

from model.bundle.bundle import find_bundle, load_bundle
from model.engine.device import DeviceError
from model.engine.engine import Engine
from service.app import App, create_app
from service.settings import Settings
from tests.api.helpers import client_of, hold, metric, problem, uint8_body

pytestmark = pytest.mark.anyio


def put(name: str, directory: Path) -> str:
    """The bundle's files at the place that is served; its version."""
    shutil.copytree(find_bundle(name), directory, dirs_exist_ok=True)
    return load_bundle(directory).version


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    put("mnist", tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
async def app(directory: Path) -> AsyncIterator[App]:
    app = create_app(Settings(bundle=str(directory), threads=1))
    yield app
    app.state.service.inference.close()


@pytest.fixture
async def reloaded(app: App) -> AsyncIterator[AsyncClient]:
    async with client_of(app) as client:
        yield client


async def test_the_new_one_answers(
    directory: Path, reloaded: AsyncClient, four: NDArray[np.uint8]
) -> None:
    old = (await reloaded.get("/model")).json()["version"]
    new = put("fashion-mnist", directory)
    assert (await reloaded.get("/model")).json()["version"] == old, "not before it is told"
    answer = await reloaded.post("/model/reload")
    assert answer.json() == {"id": "fashion-mnist", "version": new}
    assert answer.headers["x-model-version"] == new
    scored = await reloaded.post("/anomaly-score", json=uint8_body(four))
    expected = Engine(load_bundle(directory), device="cpu", threads=1).score(four).score
    assert scored.headers["x-model-version"] == new
    assert scored.json()["model"] == "fashion-mnist"
    assert scored.json()["score"] == pytest.approx(expected.tolist(), rel=1e-4)
    assert await metric(reloaded, "vae_model_info", version=new) == 1
    assert await metric(reloaded, "vae_model_info", version=old) == 0
    assert (await reloaded.get("/readyz")).status_code == 200


async def test_a_request_under_way_keeps_the_one_that_it_began_with(
    monkeypatch: pytest.MonkeyPatch,
    directory: Path,
    app: App,
    reloaded: AsyncClient,
    four: NDArray[np.uint8],
) -> None:
    before = (await reloaded.post("/anomaly-score", json=uint8_body(four))).json()
    old = (await reloaded.get("/model")).json()["version"]
    held = hold(monkeypatch, app, "score")
    under_way = asyncio.create_task(reloaded.post("/anomaly-score", json=uint8_body(four)))
    await held.begun()
    new = put("fashion-mnist", directory)
    assert (await reloaded.post("/model/reload")).status_code == 200
    behind = asyncio.create_task(reloaded.post("/anomaly-score", json=uint8_body(four)))
    await asyncio.sleep(0.05)
    held.let_go()
    answer = await under_way
    assert answer.json() == before
    assert answer.headers["x-model-version"] == old
    assert (await behind).headers["x-model-version"] == new


async def test_a_broken_one_leaves_the_old_one_and_says_why(
    directory: Path, reloaded: AsyncClient, four: NDArray[np.uint8]
) -> None:
    before = (await reloaded.post("/anomaly-score", json=uint8_body(four))).json()
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    problem(await reloaded.post("/model/reload"), 409, "model.safetensors")
    assert (await reloaded.post("/anomaly-score", json=uint8_body(four))).json() == before
    put("mnist", directory)
    assert (await reloaded.post("/model/reload")).status_code == 200, "once it is whole again"


async def test_one_that_gives_other_numbers_than_it_records_is_refused(
    directory: Path, reloaded: AsyncClient
) -> None:
    config = directory / "config.json"
    recorded = load_bundle(directory).self_test
    assert recorded is not None
    config.write_text(config.read_text().replace(str(recorded.kl), str(recorded.kl + 1)))
    problem(await reloaded.post("/model/reload"), 409, "known image")


async def test_a_device_that_has_gone_leaves_the_old_one_and_says_so(
    monkeypatch: pytest.MonkeyPatch, reloaded: AsyncClient, four: NDArray[np.uint8]
) -> None:
    def load(_: Settings) -> Engine:
        raise DeviceError("no GPU is here any more")

    monkeypatch.setattr("service.app.load_engine", load)
    problem(await reloaded.post("/model/reload"), 409, "no GPU is here any more")
    assert (await reloaded.post("/anomaly-score", json=uint8_body(four))).status_code == 200
