"""GET /recent: thumbnails of the images that were scored last, if a setting lets them be kept."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import orjson
import pytest
from httpx import AsyncClient
from PIL import Image

from model.config import VAEConfig
from service.app import App, create_app
from service.inference import health
from service.settings import Settings
from tests.api.bodies import NPY, Images, npy
from tests.api.helpers import client_of, engine_of, problem, uint8_body
from tests.processes import Server, running
from tests.unit.samples import tiny_bundle

pytestmark = pytest.mark.anyio

CAPACITY = 6


@pytest.fixture
def kept_app() -> App:
    return create_app(Settings(threads=1, recent_images=CAPACITY))


@pytest.fixture
async def keeping(kept_app: App) -> AsyncIterator[AsyncClient]:
    async with client_of(kept_app) as client:
        yield client


@pytest.fixture(scope="module")
def keeping_server() -> Iterator[Server]:
    with running("--recent-images", "1000") as server:
        yield server


def pixels(image: dict[str, Any]) -> Any:
    with Image.open(BytesIO(b64decode(image["thumbnail"])), formats=["PNG"]) as found:
        return np.asarray(found)


def of(found: dict[str, Any], name: str) -> list[Any]:
    return [image[name] for image in found["images"]]


async def test_by_default_none_are_kept(small_app: App, small_client: AsyncClient) -> None:
    assert small_app.state.service.recent is None
    problem(await small_client.get("/recent"), 404, "VAE_RECENT_IMAGES", "1,000")


async def test_what_was_scored_is_shown(keeping: AsyncClient, four: Images) -> None:
    began = time()
    scored = (await keeping.post("/anomaly-score", json=uint8_body(four))).json()
    answer = await keeping.get("/recent")
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert found["capacity"] == CAPACITY
    assert of(found, "id") == [1, 2, 3, 4]
    assert of(found, "score") == scored["score"]
    assert of(found, "p_value") == scored["p_value"]
    assert set(of(found, "score_type")) == {scored["score_type"]}
    assert all(began <= at <= time() for at in of(found, "time"))
    assert [pixels(image).tolist() for image in found["images"]] == four[:, 0].tolist()
    await keeping.post("/anomaly-score", json=uint8_body(four))
    assert of((await keeping.get("/recent")).json(), "id") == [3, 4, 5, 6, 7, 8]
    assert of((await keeping.get("/recent?after=6")).json(), "id") == [7, 8]
    assert (await keeping.get("/recent?after=8")).json()["images"] == []
    for wrong in ("after=-1", "after=x", "before=1", "after=1&after=2"):
        problem(await keeping.get(f"/recent?{wrong}"), 422)


async def test_images_are_kept_whichever_way_they_are_scored(
    keeping: AsyncClient, kept_app: App, four: Images
) -> None:
    calibration = engine_of(kept_app).calibration
    assert calibration is not None
    del calibration.scores["kl"]  # type: ignore[attr-defined] # for this app only
    image = uint8_body(four[:1])
    known = 0
    for query in (
        *("", "?map=true", "?map=true&score=kl", "?score=kl"),
        *("?score=iwae&seed=1", "?score=iwae&samples=2&seed=1"),
    ):
        scored = (await keeping.post(f"/anomaly-score{query}", json=image)).json()
        (found,) = (await keeping.get(f"/recent?after={known}")).json()["images"]
        assert pixels(found).tolist() == four[0, 0].tolist()
        assert found["score"] == scored["score"][0]
        assert found["p_value"] == (scored["p_value"] or [None])[0]
        assert found["score_type"] == scored["score_type"]
        known = found["id"]
    assert known == 6


async def test_others_and_probes_are_not_kept(
    keeping: AsyncClient, four: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "READY_FOR_S", 0.0)
    assert (await keeping.get("/readyz")).status_code == 200
    for route in ("/encode", "/reconstruct", "/preprocess"):
        assert (await keeping.post(route, json=uint8_body(four))).status_code == 200
    assert (await keeping.get("/recent")).json()["images"] == []


def test_in_a_real_process(keeping_server: Server, four: Images) -> None:
    """Where requests are answered directly, and many images are scored at once."""
    with keeping_server.client() as http:

        def newest(after: int) -> dict[str, Any]:
            found: dict[str, Any] = http.get(f"/recent?after={after}").json()
            return found

        content, headers = orjson.dumps(uint8_body(four)), {"Content-Type": "application/json"}
        for _ in range(3):
            http.post("/anomaly-score", content=content, headers=headers)
        tensor = {"name": "images", "datatype": "UINT8", "shape": [4, 28, 28]}
        tensor["data"] = uint8_body(four)["images"]
        infer = http.post("/v2/models/anomaly-score/infer", json={"inputs": [tensor]})
        assert infer.status_code == 200
        found = newest(0)
        assert of(found, "id") == list(range(1, 17))
        assert [pixels(x).tolist() for x in found["images"]] == four[:, 0].tolist() * 4
        many = np.random.default_rng(0).integers(0, 256, (1500, 28, 28), dtype=np.uint8)
        scored = http.post("/anomaly-score", content=npy(many), headers={"Content-Type": NPY})
        found = newest(0)
        assert of(found, "id") == list(range(517, 1517))
        assert of(found, "score") == scored.json()["score"][500:]
        for image, expected in zip(found["images"], many[500:], strict=True):
            assert (pixels(image) == expected).all()


async def test_each_start_has_its_own_id(four: Images) -> None:
    """Both run in this process, as restarts of a container all have pid 1."""
    ids = []
    for _ in range(2):
        app = create_app(Settings(threads=1, recent_images=CAPACITY))
        async with client_of(app) as client:
            first = (await client.get("/recent")).json()
            await client.post("/anomaly-score", json=uint8_body(four))
            later = (await client.get("/recent")).json()
            assert of(later, "id") == [1, 2, 3, 4]
            assert later["process"] == first["process"]
            ids.append(later["process"])
        app.state.service.inference.close()
    assert ids[0] != ids[1]


async def test_thumbnails_outlive_another_bundle(tmp_path: Path) -> None:
    config = VAEConfig(image_shape=(3, 100, 50), hidden_sizes=(8,), latent_size=2)
    tiny_bundle(config=config).save(tmp_path, "")
    app = create_app(Settings(bundle=str(tmp_path), threads=1, recent_images=4))
    large = np.random.default_rng(0).integers(0, 256, (1, 3, 100, 50), dtype=np.uint8)
    async with client_of(app) as client:
        await client.post("/anomaly-score", content=npy(large), headers={"Content-Type": NPY})
        small = VAEConfig(image_shape=(1, 28, 28), hidden_sizes=(8,), latent_size=2)
        tiny_bundle(config=small).save(tmp_path, "")
        assert (await client.post("/model/reload")).status_code == 200
        await client.post("/anomaly-score", content=npy(large[:, 0, :28, :28]))
        found = (await client.get("/recent")).json()["images"]
    assert [pixels(image).shape for image in found] == [(50, 25, 3), (28, 28)]
    app.state.service.inference.close()
