"""Accept and Accept-Encoding: every answer type carries the same data."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import zstandard
from httpx import AsyncClient, Response

from tests.api.bodies import BLANK, JSON, NPY, RAW, Array, Images, npy, post
from tests.api.helpers import png_pixels, problem, uint8_body

pytestmark = pytest.mark.anyio


def arrays(route: str, fields: dict[str, Any], query: str = "") -> Array:
    """What a JSON answer's fields are as an array."""
    if route == "/encode":
        return np.stack([fields["mu"], fields["sigma"]], axis=1)
    if route == "/anomaly-score":
        return np.array(fields["anomaly_map" if "map" in query else "score"])
    return np.array(fields["images"])


@pytest.mark.parametrize(
    ("route", "query"),
    [
        ("/encode", ""),
        ("/reconstruct", ""),
        ("/anomaly-score", ""),
        ("/anomaly-score", "?map=true"),
        ("/decode", ""),
        ("/sample", "?n=4&seed=3"),
    ],
)
async def test_every_answer_type_holds_the_same(
    client: AsyncClient, four: Images, route: str, query: str
) -> None:
    async def ask(accept: str) -> Response:
        headers = {"Accept": accept}
        if route == "/sample":
            answer = await client.get(route + query, headers=headers)
        elif route == "/decode":
            answer = await client.post(route, json={"n": 4, "seed": 3}, headers=headers)
        else:
            answer = await client.post(route + query, json=uint8_body(four), headers=headers)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == accept
        return answer

    expected = arrays(route, (await ask(JSON)).json(), query).astype(np.float32)
    by_npy = np.load(BytesIO((await ask(NPY)).content), allow_pickle=False)
    raw = await ask(RAW)
    assert raw.headers["x-tensor-dtype"] == "float32"
    shape = tuple(map(int, raw.headers["x-tensor-shape"].split(",")))
    by_raw = np.frombuffer(raw.content, "<f4").reshape(shape)
    for found in (by_npy, by_raw):
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        assert (found == expected).all(), "shortest JSON numbers are exact"


@pytest.mark.parametrize("route", ["/reconstruct", "/decode", "/sample"])
async def test_images_as_bytes(client: AsyncClient, four: Images, route: str) -> None:
    async def ask(accept: str, dtype: str) -> Response:
        headers = {"Accept": accept}
        if route == "/sample":
            return await client.get(f"/sample?n=4&seed=3&dtype={dtype}", headers=headers)
        body = uint8_body(four) if route == "/reconstruct" else {"n": 4, "seed": 3}
        return await client.post(f"{route}?dtype={dtype}", json=body, headers=headers)

    floats = np.load(BytesIO((await ask(NPY, "float32")).content), allow_pickle=False)
    assert floats.dtype == np.float32
    bytes_ = np.load(BytesIO((await ask(NPY, "uint8")).content), allow_pickle=False)
    assert bytes_.dtype == np.uint8
    assert (bytes_ == np.rint(floats * 255)).all()
    raw = await ask(RAW, "uint8")
    assert raw.headers["x-tensor-dtype"] == "uint8"
    assert raw.headers["x-tensor-shape"] == "4,28,28"
    assert raw.content == bytes_.tobytes()
    sheet = png_pixels(await ask("image/png", "uint8"))
    rows = [np.hstack([bytes_[0], bytes_[1]]), np.hstack([bytes_[2], bytes_[3]])]
    assert (sheet == np.vstack(rows)).all()


@pytest.mark.parametrize(
    ("accept", "found"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (f"{NPY}, {RAW}", NPY),
        (f"{RAW};q=0.9, {NPY};q=0.5", RAW),
        (f"{JSON};q=0.1, {NPY};q=0.2", NPY),
        (f"{NPY};q=0, */*", JSON),
        (f"{JSON};q=0, {NPY};q=0, */*;q=0.1", RAW),
        (f"text/html, application/xhtml+xml, {RAW};q=0.8", RAW),
        ("image/png, application/x-npy;q=0.5", NPY),
        (f"{NPY};q=1.0;version=2", NPY),
        ("APPLICATION/X-NPY", NPY),
        (f"{JSON};q=nan, {NPY};q=0.1", NPY),
        (f"{JSON};q=high, {NPY};q=0.1", NPY),
    ],
)
async def test_the_preferred_answer_type(
    client: AsyncClient, accept: str | None, found: str
) -> None:
    headers = {"Accept": accept} if accept else {}
    body = npy(BLANK)
    request = client.build_request("POST", "/encode", content=body, headers=headers)
    if not accept:
        del request.headers["Accept"]
    answer = await client.send(request)
    assert answer.headers["content-type"] == found


@pytest.mark.parametrize("accept", ["text/html", "image/png", "*/*;q=0", f"{JSON};q=0", "x"])
async def test_no_acceptable_answer_type(client: AsyncClient, accept: str) -> None:
    answer = await post(client, "/encode", npy(BLANK), NPY, accept=accept)
    problem(answer, 406, accept, JSON, NPY, RAW)


UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


@pytest.mark.parametrize(
    ("accepted", "found"),
    [
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate", "gzip"),
        ("gzip;q=0, zstd", "zstd"),
        ("zstd;q=0, gzip;q=0.1", "gzip"),
        ("identity", None),
        ("br", None),
        ("gzip;q=0", None),
        ("gzip;q=0, zstd;q=0.0", None),
        ("", None),
    ],
)
async def test_large_json_answers_are_compressed_on_request(
    client: AsyncClient, accepted: str, found: str | None
) -> None:
    plain = await client.post("/decode", json={"n": 20, "seed": 1}, headers={"Accept-Encoding": ""})
    assert len(plain.content) > 100_000
    headers = {"Accept-Encoding": accepted}
    request = client.stream("POST", "/decode", json={"n": 20, "seed": 1}, headers=headers)
    async with request as answer:
        data = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert answer.headers.get("content-encoding") == found
        assert "accept-encoding" in answer.headers["vary"].lower(), "so that caches tell them apart"
    if found:
        assert len(data) < len(plain.content) / 2
    assert UNPACK.get(found or "", bytes)(data) == plain.content


async def test_small_answers_and_pictures_are_not_compressed(client: AsyncClient) -> None:
    headers = {"Accept-Encoding": "gzip, zstd"}
    for answer in (
        await client.get("/livez", headers=headers),
        await client.post("/encode", json=uint8_body(BLANK[None]), headers=headers),
        await client.get("/sample?n=64&scale=4", headers=headers),
    ):
        assert answer.status_code == 200
        assert "content-encoding" not in answer.headers
