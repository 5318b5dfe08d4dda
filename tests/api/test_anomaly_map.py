"""The map of errors, as numbers and as a picture."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
import orjson
import pytest
from httpx import AsyncClient

from tests.api.bodies import BLANK, FORM, JSON, NPY, RAW, Array, Images, form, npy, post
from tests.api.helpers import png_pixels, problem, uint8_body

pytestmark = pytest.mark.anyio


async def test_the_mean_of_a_map_is_the_error(client: AsyncClient, four: Images) -> None:
    body = uint8_body(four)
    plain = (await client.post("/anomaly-score", json=body)).json()
    mapped = (await client.post("/anomaly-score?map=true", json=body)).json()
    anomaly_map = np.array(mapped.pop("anomaly_map"))
    assert anomaly_map.shape == (4, 28, 28)
    assert anomaly_map.min() >= 0
    assert anomaly_map.mean(axis=(1, 2)) == pytest.approx(np.array(plain["mse"]), rel=1e-5)
    assert "anomaly_map" not in plain
    for name in ("score", "mse", "kl"):
        assert np.array(mapped.pop(name)) == pytest.approx(np.array(plain.pop(name)), rel=1e-5)
    assert mapped == plain
    back = (await client.post("/reconstruct", json=body)).json()["images"]
    assert anomaly_map == pytest.approx(np.square(four[:, 0] / 255 - back), abs=1e-5)


async def test_a_map_as_a_picture(client: AsyncClient, four: Images) -> None:
    headers = {"Accept": "image/png"}

    async def draw(images: Images, query: str = "") -> Images:
        url = f"/anomaly-score?map=true{query}"
        answer = await client.post(url, json=uint8_body(images), headers=headers)
        return png_pixels(answer)

    assert (await draw(four[:1])).shape == (28, 28, 3)
    sheet = await draw(four)
    assert sheet.shape == (56, 56, 3)
    assert (sheet[:28, 28:] == await draw(four[1:2])).all(), "the colour of an error is fixed"
    assert ((await draw(four, "&scale=3"))[::3, ::3] == sheet).all()
    problem(
        await client.post("/anomaly-score", json=uint8_body(four), headers=headers),
        406,
        "image/png",
    )
    answer = await client.post(
        "/anomaly-score?map=true&scale=64",
        content=npy(np.zeros((200, 784), np.uint8)),
        headers=headers,
    )
    problem(answer, 422, "25,000,000")


async def test_a_map_shows_where_the_error_is(client: AsyncClient, four: Images) -> None:
    """A white square in the corner, where no digit has ink, is what the colour is seen at."""
    spoilt = four[:1].copy()
    spoilt[0, 0, :5, :5] = 255
    headers = {"Accept": "image/png"}
    answer = await client.post("/anomaly-score?map=true", json=uint8_body(spoilt), headers=headers)
    drawn = png_pixels(answer).astype(int)
    colour = drawn.max(axis=2) - drawn.min(axis=2)
    assert colour[:5, :5].min() > 2 * colour[6:, 6:].mean()


@pytest.mark.parametrize("score", ["nope", "bernoulli", "MSE"])
async def test_a_score_that_is_not_offered(client: AsyncClient, score: str) -> None:
    for query in ("", "&map=true"):
        answer = await post(client, f"/anomaly-score?score={score}{query}", npy(BLANK), NPY)
        found = problem(answer, 422, f"'{score}'", "mse")
        assert found["errors"][0]["loc"] == ["query", "score"]


async def test_bad_bodies_do_not_affect_good_ones(
    client: AsyncClient, four: Images, mu_of_four: Array
) -> None:
    """Good and bad bodies at once, of every type."""
    bad = [
        (b"{", JSON),
        (npy(four)[:-1], NPY),
        (b"abc", RAW),
        (form(b"x"), FORM),
        (b"x", "image/png"),
    ]
    good = [(npy(four), NPY), (four.tobytes(), RAW), (orjson.dumps(uint8_body(four)), JSON)]
    answers = await asyncio.gather(
        *(post(client, "/encode", *body) for _ in range(5) for body in bad + good)
    )
    statuses = [answer.status_code for answer in answers]
    assert statuses == [400, 400, 422, 400, 400, 200, 200, 200] * 5
    for answer in answers:
        if answer.status_code == httpx.codes.OK:
            assert np.array(answer.json()["mu"]) == pytest.approx(mu_of_four, abs=1e-5)
