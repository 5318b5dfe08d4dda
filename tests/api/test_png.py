"""PNG answers, and which type an `Accept` header gets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from httpx import AsyncClient, Response
from numpy.typing import NDArray
from starlette.responses import Response as PNGResponse

from service.app import App
from service.codecs import registry
from service.codecs.png import write_png
from service.codecs.responses import Result
from tests.api.helpers import (
    IMAGE_ROUTES,
    SMALL,
    base64_file,
    image_file,
    metric,
    png_pixels,
    problem,
    uint8_body,
)

pytestmark = pytest.mark.anyio

PNG = {"Accept": "image/png"}
JSON = {"Accept": "application/json"}


def tile(sheet: NDArray[np.uint8], index: int, columns: int, scale: int = 1) -> NDArray[np.uint8]:
    row, column = divmod(index, columns)
    size = 28 * scale
    return sheet[row * size : (row + 1) * size, column * size : (column + 1) * size]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 9, 16, 17])
@pytest.mark.parametrize("scale", [1, 3])
async def test_images_are_laid_out_row_by_row_near_square(
    client: AsyncClient, n: int, scale: int
) -> None:
    body = {"n": n, "seed": 7}
    images = np.array((await client.post("/decode", json=body)).json()["images"])
    sheet = png_pixels(await client.post(f"/decode?scale={scale}", json=body, headers=PNG))

    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    assert sheet.shape == (rows * 28 * scale, columns * 28 * scale)
    for index in range(rows * columns):
        found = tile(sheet, index, columns, scale)
        if index >= n:
            assert not found.any(), "what is left over is black"
            continue
        enlarged = np.kron(images[index], np.ones((scale, scale)))
        assert np.abs(found - 255 * enlarged).max() <= 0.5 + 1e-3


async def test_sample_is_a_png_by_default(client: AsyncClient) -> None:
    sampled = await client.get("/sample?n=4&seed=7&scale=2")
    decoded = await client.post("/decode?scale=2", json={"n": 4, "seed": 7}, headers=PNG)
    assert png_pixels(sampled).shape == (112, 112)
    assert sampled.content == decoded.content
    assert png_pixels(await client.get("/sample")).shape == (28, 28), "one image by default"


async def test_reconstruct_as_png(client: AsyncClient, four: NDArray[np.uint8]) -> None:
    images = (await client.post("/reconstruct", json=uint8_body(four))).json()["images"]
    sheet = png_pixels(await client.post("/reconstruct", json=uint8_body(four), headers=PNG))
    for index, image in enumerate(images):
        assert np.abs(tile(sheet, index, 2) - 255 * np.array(image)).max() <= 0.5 + 1e-3


async def test_a_png_answer_can_be_posted_again(client: AsyncClient) -> None:
    picture = await client.get("/sample?n=1&seed=7")
    score = await client.post("/anomaly-score", content=picture.content)
    assert score.json()["is_anomaly"] == [False]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/json", "application/json"),
        ("image/png", "image/png"),
        ("image/*", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("image/png;q=0.5, application/json;q=0.4", "image/png"),
        ("image/png;q=0.4, application/json; q=0.5", "application/json"),
        ("image/png, */*;q=0.1", "image/png"),
        ("text/html, image/png;q=0.1", "image/png"),
        ("application/json;q=0, */*", "image/png"),
        ("*/*, image/png;q=0", "application/json"),
        ("*/*;q=0.1, image/*;q=0.2", "image/png"),
        ("text/html,application/xhtml+xml,image/avif,image/webp,*/*;q=0.8", "application/json"),
    ],
)
async def test_the_type_the_caller_likes_best(
    client: AsyncClient, accept: str | None, content_type: str
) -> None:
    if accept is None:
        del client.headers["Accept"]
    headers = {} if accept is None else {"Accept": accept}
    answer = await client.post("/decode", json={"n": 1}, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == content_type


@pytest.mark.parametrize("accept", ["*/*", "image/*", "image/png", "application/json;q=0.1, */*"])
async def test_sample_prefers_png(client: AsyncClient, accept: str) -> None:
    answer = await client.get("/sample", headers={"Accept": accept})
    assert answer.headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    "accept",
    ["text/html", "image/jpeg", "image/png;q=0, application/json;q=0", "*/*;q=0", "text/*"],
)
async def test_no_type_the_caller_accepts(client: AsyncClient, accept: str) -> None:
    for method, path, body in [
        ("POST", "/decode", {"n": 1}),
        ("GET", "/sample", None),
    ]:
        answer = await client.request(method, path, json=body, headers={"Accept": accept})
        problem(answer, 406, accept, "application/json", "image/png")


@pytest.mark.parametrize("route", ["/encode", "/anomaly-score"])
async def test_numbers_are_no_picture(
    client: AsyncClient, four: NDArray[np.uint8], route: str
) -> None:
    answer = await client.post(route, json=uint8_body(four), headers=PNG)
    problem(answer, 406, "image/png", "application/json")


@pytest.mark.parametrize("route", IMAGE_ROUTES)
async def test_the_first_of_several_accept_ranges_is_no_trap(
    client: AsyncClient, four: NDArray[np.uint8], route: str
) -> None:
    answer = await client.post(
        route, content=image_file(four[0]), headers={"Accept": "text/csv;q=0.9, */*;q=0.1"}
    )
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("scale", ["0", "-1", "65", "1.5", "x", ""])
async def test_an_invalid_scale(client: AsyncClient, four: NDArray[np.uint8], scale: str) -> None:
    for method, path, body in [
        ("GET", "/sample", None),
        ("POST", "/decode", {"n": 1}),
        ("POST", "/reconstruct", {"images": [base64_file(four[0])]}),
    ]:
        answer = await client.request(method, f"{path}?scale={scale}", json=body)
        found = problem(answer, 422, "scale", repr(scale))
        assert found["errors"][0]["loc"] == ["query", "scale"]


async def test_a_picture_too_large_to_draw(client: AsyncClient) -> None:
    answer = await client.get("/sample?n=100&scale=64")
    found = problem(answer, 422, "100 images", "64", "17920", "25,000,000")
    assert found["errors"][0]["loc"] == ["query", "scale"]


ROUTES = {
    "/decode": {"n": 1},
    "/reconstruct": None,
    "/anomaly-score?map=true": None,
    "/sample?n=1": {},
}
"""Each route that draws, and its body; None is for an image."""


@pytest.mark.parametrize("route", ROUTES)
async def test_a_picture_too_large_is_refused_before_the_work(
    route: str, small_client: AsyncClient, four: NDArray[np.uint8]
) -> None:
    async def ask(scale: int, headers: dict[str, str]) -> Response:
        given = ROUTES[route]
        method = "GET" if given == {} else "POST"
        body = uint8_body(four[:1]) if given is None else given or None
        url = f"{route}{'&' if '?' in route else '?'}scale={scale}"
        return await small_client.request(method, url, json=body, headers=headers)

    most = math.isqrt(SMALL.max_image_pixels) // 28
    assert png_pixels(await ask(most, PNG)).shape[0] == 28 * most
    batches = await metric(small_client, "vae_batch_images_count")
    found = problem(await ask(most + 1, PNG), 422, f"scale {most + 1}", "100,000")
    assert found["errors"][0]["loc"] == ["query", "scale"]
    assert await metric(small_client, "vae_batch_images_count") == batches
    assert (await ask(most + 1, JSON)).status_code == 200, "which draws nothing"


async def test_what_a_picture_takes_counts_while_it_is_written(
    small_app: App,
    small_client: AsyncClient,
    four: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the images under a map are kept as they came: in floats they take four times as much."""
    budget = small_app.state.budget
    reserved, under = [], []

    def noting(result: Result) -> PNGResponse:
        reserved.append(budget.reserved)
        assert result.drawing is not None
        under.append(result.drawing.images.dtype)
        return write_png(result)

    monkeypatch.setitem(registry.WRITERS, "image/png", noting)
    for scale in (1, 5):
        url = f"/anomaly-score?map=true&scale={scale}"
        answer = await small_client.post(url, json=uint8_body(four), headers=PNG)
        assert answer.status_code == 200
        assert budget.reserved == 0
    assert reserved[1] - reserved[0] == 4 * 56 * 56 * (5**2 - 1)
    assert under == [np.uint8] * 2
