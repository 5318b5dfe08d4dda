"""The maps of a detector over HTTP: as numbers, and as pictures for people."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle.bundle import Bundle
from model.engine.engine import Engine
from model.scores.detected import DETECTED_SCORES
from service.app import App, create_app
from service.client import Client
from service.codecs.png import CLEAR, DEFECT, FULL, FULL_OPACITY
from service.settings import Settings
from tests.api.bodies import JSON, NPY, RAW, npy
from tests.api.helpers import client_of, hold, png_pixels, problem, queue_holds
from tests.processes import Server, running
from tests.unit.model.features.detectors import DEFECT as PATCH
from tests.unit.model.features.detectors import SIDES, calibrated_bundle, clean, defective

PNG = "image/png"
N = 2

OTHERS = ("mse", "fused", "iwae")
"""Scores whose map is the squared error, with and without draws."""

Images = NDArray[np.uint8]
Maps = NDArray[np.float32]


def saved(bundle: Bundle, directory: Path) -> str:
    bundle.save(directory, "")
    return str(directory)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service with a bundle that has a detector, for grey images."""
    directory = saved(calibrated_bundle(), tmp_path_factory.mktemp("grey") / "detected")
    with running("--bundle", directory, "--max-batch-images", "4", "--threads", "1") as server:
        yield server


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> App:
    """The same for RGB images, in this process."""
    directory = saved(calibrated_bundle(3), tmp_path_factory.mktemp("rgb") / "detected")
    return create_app(Settings(bundle=directory, threads=1, max_batch_images=4))


@pytest.fixture(scope="module")
def images() -> Images:
    """A clean one and one with a defect, (2, 1, H, W)."""
    return np.concatenate([clean(1, seed=9), defective(1)])


@pytest.fixture(scope="module")
def expected(images: Images) -> dict[str, Maps]:
    """The map of each score of a detector, (2, H, W), by the engine itself."""
    engine = Engine(calibrated_bundle(), device="cpu", threads=1)
    return {name: engine.score_map(images, name).anomaly_map[:, 0] for name in DETECTED_SCORES}


def ask(http: httpx.Client, query: str, images: Images, accept: str = JSON) -> httpx.Response:
    return http.post(
        f"/anomaly-score?seed=7&{query}", content=npy(images), headers={"Accept": accept}
    )


def answer(http: httpx.Client, query: str, images: Images) -> dict[str, Any]:
    found = ask(http, query, images)
    assert found.status_code == 200, found.text
    fields: dict[str, Any] = found.json()
    return fields


def picture(http: httpx.Client, query: str, images: Images) -> Images:
    """A PNG of two images side by side, as (2, H, W, 3)."""
    found = ask(http, f"map=true&{query}", images, PNG)
    assert found.status_code == 200, found.text
    return np.stack(np.split(png_pixels(found), N, axis=1))


def rgb(images: Images) -> Images:
    """Grey or colour images, (N, C, H, W), as (N, H, W, 3)."""
    return np.broadcast_to(images, (len(images), 3, *images.shape[2:])).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("name", DETECTED_SCORES)
def test_a_map_is_the_detector_s_in_every_form(
    http: httpx.Client, images: Images, expected: dict[str, Maps], name: str
) -> None:
    found = np.array(answer(http, f"map=true&score={name}", images)["anomaly_map"], np.float32)
    np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-4)
    assert found.max() > 1 > 0 > found.min(), "so that a clip or a wrapped number is seen"
    by_npy = ask(http, f"map=true&score={name}", images, NPY)
    np.testing.assert_array_equal(np.load(BytesIO(by_npy.content)), found, strict=True)
    raw = ask(http, f"map=true&score={name}", images, RAW)
    assert raw.headers["x-tensor-dtype"] == "float32"
    assert raw.headers["x-tensor-shape"] == f"{N},{SIDES[0]},{SIDES[1]}"
    assert raw.content == found.astype("<f4").tobytes()


@pytest.mark.parametrize("name", OTHERS)
def test_the_map_of_another_score_is_the_squared_error(
    http: httpx.Client, images: Images, name: str
) -> None:
    fields = answer(http, f"map=true&score={name}", images)
    back = np.array(http.post("/reconstruct", content=npy(images)).json()["images"])
    errors = np.square(images[:, 0] / 255 - back)
    np.testing.assert_allclose(fields["anomaly_map"], errors, atol=1e-5)
    # Small errors change the picture: nothing is clear only because it is below `CLEAR`.
    drawn = picture(http, f"score={name}", images).astype(int)
    assert (np.abs(drawn - rgb(images)).max(axis=3)[errors > 1e-3] > 0).all()


def test_raw_pixels_as_bytes_are_answered_in_floats(
    http: httpx.Client, images: Images, expected: dict[str, Maps]
) -> None:
    """`dtype` is that of the body: a map that is written as uint8 would wrap."""
    found = http.post(
        "/anomaly-score?map=true&dtype=uint8",
        content=images.tobytes(),
        headers={"Content-Type": RAW, "Accept": RAW},
    )
    values = np.frombuffer(found.content, "<f4").reshape(N, *SIDES)
    np.testing.assert_allclose(values, expected["combined"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*DETECTED_SCORES, *OTHERS])
def test_a_map_does_not_change_the_scores(http: httpx.Client, images: Images, name: str) -> None:
    mapped = answer(http, f"map=true&score={name}", images)
    del mapped["anomaly_map"]
    plain = answer(http, f"score={name}", images)
    assert mapped["score_type"] == name
    for field in ("score", "mse", "kl"):
        np.testing.assert_allclose(mapped.pop(field), plain.pop(field), rtol=1e-5)
    assert mapped == plain


@pytest.mark.parametrize("name", DETECTED_SCORES)
def test_a_picture_is_tinted_where_the_image_is_unusual(
    http: httpx.Client, images: Images, expected: dict[str, Maps], name: str
) -> None:
    values, drawn, plain = expected[name], picture(http, f"score={name}", images), rgb(images)
    full = values > FULL + 1e-3
    assert full[1][PATCH].any()
    tinted = (1 - FULL_OPACITY) * plain + FULL_OPACITY * np.array(DEFECT)
    assert np.abs(drawn - tinted)[full].max() <= 1
    usual = values < CLEAR - 1e-3
    assert usual[0].mean() > 0.5
    np.testing.assert_array_equal(drawn[usual], plain[usual])
    between = np.abs(values - (CLEAR + FULL) / 2) < 0.1
    change = np.abs(drawn.astype(int) - plain).max(axis=3)
    assert 0 < change[between].mean() < change[full].mean() / 2


def test_a_picture_without_a_name_is_that_of_the_default(
    http: httpx.Client, images: Images
) -> None:
    named = picture(http, "score=combined", images)
    np.testing.assert_array_equal(picture(http, "", images), named)


@pytest.mark.parametrize("name", DETECTED_SCORES)
def test_a_contour_goes_around_what_is_unusual(
    http: httpx.Client, images: Images, expected: dict[str, Maps], name: str
) -> None:
    drawn, plain = picture(http, f"score={name}&contour=true", images), rgb(images)
    inside = expected[name] >= FULL
    line = (drawn == DEFECT).all(axis=3)
    np.testing.assert_array_equal(drawn[~line], plain[~line])
    edge = np.ones(SIDES, bool)
    edge[1:-1, 1:-1] = False
    assert line[1].any()
    for here, around in zip(inside, line, strict=True):
        for row, column in np.argwhere(around):
            near = here[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            assert near.any()
            assert not here[row, column] or edge[row, column]
        for row, column in np.argwhere(here & ~around):  # nothing leads out of it
            beside = (slice(row - 1, row + 2), slice(column - 1, column + 2))
            assert (here | around)[beside].all()
            assert not edge[row, column]
    larger = png_pixels(ask(http, f"map=true&contour=true&scale=3&score={name}", images, PNG))
    np.testing.assert_array_equal(larger[1::3, 1::3], np.concatenate(drawn, axis=1))


def refusal(found: httpx.Response, *mentioned: str) -> None:
    fields = problem(found, 422, *mentioned)
    assert fields["errors"][0]["loc"] == ["query", "contour"]


@pytest.mark.parametrize("accept", [JSON, PNG, NPY])
def test_a_contour_without_a_map_is_refused(
    http: httpx.Client, images: Images, accept: str
) -> None:
    refusal(ask(http, "contour=true", images, accept), "map=true")


@pytest.mark.parametrize("accept", [JSON, NPY, RAW, "*/*"])
def test_a_contour_is_refused_for_anything_but_a_picture(
    http: httpx.Client, images: Images, accept: str
) -> None:
    found = ask(http, "map=true&contour=true", images, accept)
    refusal(found, "image/png", JSON if accept == "*/*" else accept)


@pytest.mark.parametrize("name", OTHERS)
def test_a_contour_of_squared_errors_is_refused(
    http: httpx.Client, images: Images, name: str
) -> None:
    found = ask(http, f"map=true&contour=true&score={name}", images, PNG)
    refusal(found, repr(name), *DETECTED_SCORES)


@pytest.mark.anyio
async def test_a_bundle_without_a_detector_has_no_contours(client: httpx.AsyncClient) -> None:
    found = await client.post(
        "/anomaly-score?map=true&contour=true",
        content=npy(np.zeros((1, 28, 28), np.uint8)),
        headers={"Accept": PNG},
    )
    refusal(found, "this model has none")
    page = (await client.get("/openapi.json")).json()
    assert contour_of(page) == {"enum": [False], "default": False}


def contour_of(page: dict[str, Any]) -> dict[str, Any]:
    parameters = page["paths"]["/anomaly-score"]["post"]["parameters"]
    (schema,) = (each["schema"] for each in parameters if each["name"] == "contour")
    found: dict[str, Any] = schema
    return found


def test_the_detector_is_described(http: httpx.Client) -> None:
    model = http.get("/model").json()
    detector = calibrated_bundle().detector
    assert detector is not None
    assert model["architecture"].pop("detector") == detector.config.to_json()
    assert model["architecture"] == calibrated_bundle().config.to_json()
    assert tuple(model["scores"][: len(DETECTED_SCORES)]) == DETECTED_SCORES
    assert contour_of(http.get("/openapi.json").json())["type"] == "boolean"


def test_the_client_gets_the_map_of_the_default_score(
    server: Server, images: Images, expected: dict[str, Maps]
) -> None:
    with Client(server.url) as client:
        found = client.anomaly_map(images)
    np.testing.assert_allclose(found, expected["combined"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DETECTED_SCORES)
def test_the_client_gets_the_map_of_a_score(
    server: Server, images: Images, expected: dict[str, Maps], name: str
) -> None:
    with Client(server.url) as client:
        found = client.anomaly_map(images, score=name)
    np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-4)


def test_the_open_inference_protocol_has_the_default_score(
    http: httpx.Client, images: Images
) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
    body = {"inputs": [tensor | {"data": images.ravel().tolist()}]}
    outputs = http.post("/v2/models/anomaly-score/infer", json=body).json()["outputs"]
    found = {output["name"]: output["data"] for output in outputs}
    plain = answer(http, "score=combined", images)
    for name in ("score", "p_value", "mse", "kl"):
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-5)


@pytest.mark.anyio
async def test_colour_images(coloured: App) -> None:
    images = np.concatenate([clean(1, 3, seed=9), defective(1, 3, seed=2)])
    async with client_of(coloured) as client:

        async def get(query: str, accept: str) -> httpx.Response:
            url = f"/anomaly-score?map=true{query}"
            return await client.post(url, content=npy(images), headers={"Accept": accept})

        fields = (await get("", JSON)).json()
        values = np.array(fields["anomaly_map"], np.float32)
        assert values.shape == images.shape
        np.testing.assert_array_equal(values, np.repeat(values[:, :1], 3, axis=1))
        engine = Engine(calibrated_bundle(3), device="cpu", threads=1)
        wanted = engine.score_map(images, "combined").anomaly_map
        np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-4)
        plain, full = rgb(images), values[:, 0] >= FULL
        assert full[1][PATCH].any()
        drawn = np.stack(np.split(png_pixels(await get("", PNG)), N, axis=1))
        tinted = (1 - FULL_OPACITY) * plain + FULL_OPACITY * np.array(DEFECT)
        assert np.abs(drawn - tinted)[full].max() <= 1
        usual = values[:, 0] <= CLEAR
        np.testing.assert_array_equal(drawn[usual], plain[usual])
        outlined = np.stack(np.split(png_pixels(await get("&contour=true", PNG)), N, axis=1))
        line = (outlined == DEFECT).all(axis=3)
        assert line[1].any()
        np.testing.assert_array_equal(outlined[~line], plain[~line])


@pytest.mark.anyio
async def test_maps_are_batched(coloured: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests in one pass get what each gets alone, and a request for another score is not
    among them."""
    several = [clean(1, 3, seed=5), defective(2, 3, seed=6), defective(1, 3, seed=7)]
    queries = ["combined", "combined", "texture"]
    async with client_of(coloured) as client:

        async def get(images: Images, name: str) -> dict[str, Any]:
            url = f"/anomaly-score?map=true&score={name}"
            fields: dict[str, Any] = (await client.post(url, content=npy(images))).json()
            return fields

        wanted = [await get(*each) for each in zip(several, queries, strict=True)]
        held = hold(monkeypatch, coloured, "score_map")
        first = asyncio.create_task(get(several[0], "mse"))
        await held.begun()
        together = [asyncio.create_task(get(*each)) for each in zip(several, queries, strict=True)]
        await queue_holds(client, 4)
        held.let_go()
        await first
        for task, alone in zip(together, wanted, strict=True):
            found = await task
            for field in ("score", "anomaly_map"):
                np.testing.assert_allclose(found[field], alone[field], rtol=1e-4, atol=1e-4)
            assert found["is_anomaly"] == alone["is_anomaly"]
    assert sorted(held.batches) == [1, 1, 3]
