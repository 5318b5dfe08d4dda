"""GIF answers of /decode and /sample."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
import pytest
from httpx import AsyncClient, Response
from PIL import Image, ImageSequence
from starlette.responses import Response as GIFResponse

from service.app import App
from service.codecs import registry
from service.codecs.gif import write_gif
from service.codecs.responses import Result
from tests.api.bodies import JSON, Array, Images
from tests.api.helpers import SMALL, metric, problem, uint8_body

pytestmark = pytest.mark.anyio

GIF = {"Accept": "image/gif"}


def frames(answer: Response) -> list[Array]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/gif"
    with Image.open(BytesIO(answer.content), formats=["GIF"]) as image:
        return [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(image)]


async def test_its_frames_are_the_images(client: AsyncClient) -> None:
    body = {"n": 5, "seed": 7}
    images = np.array((await client.post("/decode", json=body)).json()["images"])
    for answer in (
        await client.post("/decode?scale=2", json=body, headers=GIF),
        await client.get("/sample?n=5&seed=7&scale=2", headers=GIF),
    ):
        found = frames(answer)
        assert len(found) == 5
        for frame, image in zip(found, images, strict=True):
            assert frame.shape == (56, 56)
            assert np.abs(frame[::2, ::2] - 255 * image).max() <= 0.5 + 1e-3
    assert len(frames(await client.get("/sample", headers=GIF))) == 1


@pytest.mark.parametrize(
    ("accept", "decoded", "sampled"),
    [
        ("*/*", JSON, "image/png"),
        ("image/*", "image/png", "image/png"),
        ("image/avif,image/webp,image/apng,image/*,*/*;q=0.8", "image/png", "image/png"),
        ("image/gif, image/*;q=0.9", "image/gif", "image/gif"),
        ("image/gif, image/png", "image/png", "image/png"),
        ("image/*, image/png;q=0", "image/gif", "image/gif"),
        ("text/html, */*;q=0.1, image/png;q=0, application/*;q=0", "image/gif", "image/gif"),
    ],
)
async def test_only_who_asks_for_one_gets_one(
    client: AsyncClient, accept: str, decoded: str, sampled: str
) -> None:
    headers = {"Accept": accept}
    answer = await client.post("/decode", json={"n": 1}, headers=headers)
    assert answer.headers["content-type"] == decoded
    assert (await client.get("/sample", headers=headers)).headers["content-type"] == sampled


async def test_other_routes_have_none(client: AsyncClient, four: Images) -> None:
    for route in ("/reconstruct", "/anomaly-score?map=true", "/preprocess", "/encode"):
        problem(await client.post(route, json=uint8_body(four), headers=GIF), 406, "image/gif")


@pytest.mark.parametrize("route", ["/decode", "/sample?n=2"])
async def test_too_many_pixels_are_refused_before_the_work(
    route: str, small_client: AsyncClient
) -> None:
    async def ask(scale: int) -> Response:
        if route == "/decode":
            body = {"n": 2}
            return await small_client.post(f"/decode?scale={scale}", json=body, headers=GIF)
        return await small_client.get(f"{route}&scale={scale}", headers=GIF)

    most = math.isqrt(SMALL.max_image_pixels // 2) // 28
    assert frames(await ask(most))[0].shape == (28 * most, 28 * most)
    batches = await metric(small_client, "vae_batch_images_count")
    found = problem(await ask(most + 1), 422, f"2 images at scale {most + 1}", "100,000")
    assert found["errors"][0]["loc"] == ["query", "scale"]
    assert await metric(small_client, "vae_batch_images_count") == batches


async def test_what_it_takes_counts_while_it_is_written(
    small_app: App, small_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved = []

    def noting(result: Result) -> GIFResponse:
        reserved.append(small_app.state.budget.reserved)
        return write_gif(result)

    monkeypatch.setitem(registry.WRITERS, "image/gif", noting)
    for scale in (1, 5):
        answer = await small_client.get(f"/sample?n=4&scale={scale}", headers=GIF)
        assert answer.status_code == 200
        assert small_app.state.budget.reserved == 0
    assert reserved[1] - reserved[0] == 4 * 28 * 28 * (5**2 - 1)
