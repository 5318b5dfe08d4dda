"""Raw numbers as images and as latents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient

from tests.api.bodies import NPY, RAW, Array, Images, mu, npy, post
from tests.api.helpers import problem

pytestmark = pytest.mark.anyio


async def test_raw_numbers(client: AsyncClient, four: Images, mu_of_four: Array) -> None:
    raw = four.tobytes()
    for query in ("", "?dtype=uint8"):
        assert (await mu(client, raw, RAW, query) == mu_of_four).all()
    floats = (four / np.float32(255)).astype("<f4").tobytes()
    assert await mu(client, floats, RAW, "?dtype=float32") == pytest.approx(mu_of_four, abs=1e-5)


@pytest.mark.parametrize("n", [1, 783, 785, 1_001])
async def test_raw_numbers_that_are_no_multiple(client: AsyncClient, n: int) -> None:
    problem(await post(client, "/encode", bytes(n), RAW), 422, f"{n:,}", "784")
    answer = await post(client, "/encode?dtype=float32", bytes(n), RAW)
    problem(answer, 422, f"{n:,}", "3,136")
    problem(await post(client, "/decode", bytes(n), RAW), 422, f"{n:,}", "40")


@pytest.mark.parametrize("dtype", ["float64", "uint16", "UINT8", "", "float16"])
async def test_raw_numbers_of_another_type(client: AsyncClient, dtype: str) -> None:
    answer = await post(client, f"/encode?dtype={dtype}", bytes(784), RAW)
    assert problem(answer, 422, "uint8", "float32")["errors"][0]["loc"] == ["query", "dtype"]


# Latents


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
async def test_latents_as_arrays(client: AsyncClient, dtype: str, order: Any) -> None:
    z = np.random.default_rng(3).standard_normal((5, 10)).astype("<f2").astype("<f4")
    by_json = (await client.post("/decode", json={"z": z.tolist()})).json()
    body = npy(np.asarray(z, dtype=dtype, order=order))
    assert (await post(client, "/decode", body, NPY)).json() == by_json
    assert (await post(client, "/decode", z.tobytes(), RAW)).json() == by_json
    one = (await post(client, "/decode", npy(z[0].astype(dtype)), NPY)).json()
    assert len(one["images"]) == 1
    assert np.array(one["images"]) == pytest.approx(np.array(by_json["images"][:1]), abs=1e-5)


async def test_whole_latents_are_numbers_too(client: AsyncClient) -> None:
    """uint8 is a type of arrays; of latents it is the numbers 0 to 255, not parts of 1."""
    z = np.arange(10, dtype=np.uint8) % 3
    by_json = (await client.post("/decode", json={"z": [z.tolist()]})).json()
    assert (await post(client, "/decode", npy(z), NPY)).json() == by_json


@pytest.mark.parametrize("shape", [(), (9,), (11,), (1, 11), (2, 1, 10), (10, 1), (784,)])
async def test_latents_of_a_wrong_shape(client: AsyncClient, shape: tuple[int, ...]) -> None:
    answer = await post(client, "/decode", npy(np.zeros(shape, np.float32)), NPY)
    problem(answer, 422, str(list(shape)), "[N, 10] or [10]")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e7, -1e7])
async def test_latents_out_of_range(client: AsyncClient, value: float) -> None:
    z = np.zeros((3, 10), "<f4")
    z[1, 4] = value
    bodies = [(z.tobytes(), RAW), (npy(z), NPY), (npy(z.astype(">f8")), NPY)]
    if not np.isfinite(value):
        bodies.append((npy(z.astype("<f2")), NPY))
    for body, content_type in bodies:
        found = problem(await post(client, "/decode", body, content_type), 422, "z[1]", "1e+06")
        assert found["errors"][0]["loc"] == ["body", "z", 1, 4]
