"""Each kind of bad input: the right status, and a detail that names the value and the limit.

Every bad request has a good one beside it, which must come to no harm.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import orjson
import pytest
from httpx import AsyncClient, Response
from numpy.typing import NDArray

from tests.api.helpers import IMAGE_ROUTES, WORK_ROUTES, base64_file, image_file, problem

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
BLANK = [0.0] * 784

Send = Callable[..., Any]


def one_pixel(value: str) -> bytes:
    """An image whose pixel 3 is `value`, as JSON text."""
    return f'{{"images": [[0, 0, 0, {value}{", 0" * 780}]]}}'.encode()


@pytest.fixture
async def send(client: AsyncClient) -> Send:
    """Send a request with a good one beside it."""
    good = {"images": [[[0.0] * 28] * 28]}
    expected = (await client.post("/encode", json=good)).json()

    async def send_both(path: str, **options: Any) -> Response:
        answer, beside = await asyncio.gather(
            client.post(path, **options), client.post("/encode", json=good)
        )
        assert beside.status_code == 200
        for key in ("mu", "sigma"):
            assert np.array(beside.json()[key]) == pytest.approx(np.array(expected[key]), abs=1e-5)
        assert isinstance(answer, Response)
        return answer

    return send_both


# 400: the body is not what its type says


@pytest.mark.parametrize("route", WORK_ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"images": [',
        b"images",
        b"{'images': []}",
        b'{"images": [[NaN]]}',
        b'{"images": [[Infinity]]}',
        b'{"images": "\xff\xfe"}',
        '{"images": []}'.encode("utf-16"),
        b'{"images": []} {}',
        b"\x00\x01\x02",
        b"[" * 5_000,
        b'{"images":' * 5_000,
    ],
)
async def test_broken_json(send: Send, route: str, body: bytes) -> None:
    found = problem(await send(route, content=body, headers=JSON), 400, "JSON")
    assert len(found["detail"]) < 300


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "-1e999", "1" + 400 * "0"])
async def test_invalid_numbers(send: Send, number: str) -> None:
    answer = await send("/encode", content=one_pixel(number), headers=JSON)
    problem(answer, 400 if answer.status_code == 400 else 422)  # no JSON, or JSON out of range


@pytest.mark.parametrize("route", WORK_ROUTES)
@pytest.mark.parametrize("content_type", [None, "application/json", "image/png"])
async def test_an_empty_body(send: Send, route: str, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    problem(await send(route, content=b"", headers=headers), 400, "empty")


@pytest.mark.parametrize("route", IMAGE_ROUTES)
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
async def test_a_file_cut_short(
    send: Send, four: NDArray[np.uint8], route: str, file_format: str
) -> None:
    whole = image_file(four[0], file_format)
    for content in (whole[: len(whole) * 2 // 3], whole[:20]):
        headers = {"Content-Type": f"image/{file_format.lower()}"}
        problem(await send(route, content=content, headers=headers), 400)
        images = [base64_file(four[0]), b64encode(content).decode()]
        problem(await send(route, json={"images": images}), 400, "images[1]")


@pytest.mark.parametrize(
    "content", [b"GIF89a" + bytes(100), b"not an image", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF"]
)
async def test_a_file_of_no_known_format(send: Send, content: bytes) -> None:
    answer = await send("/encode", content=content, headers={"Content-Type": "image/png"})
    problem(answer, 400, "file")
    text = b64encode(content).decode()
    problem(await send("/encode", json={"images": [text]}), 400, "images[0]")


async def test_one_type_declared_and_another_sent(send: Send, four: NDArray[np.uint8]) -> None:
    file = image_file(four[0])
    problem(await send("/encode", content=file, headers=JSON), 400, "JSON")
    headers = {"Content-Type": "image/png"}
    problem(await send("/encode", content=one_pixel("0"), headers=headers), 400)


# 413: too much


async def test_too_many_images(small_client: AsyncClient) -> None:
    nine = {"images": [BLANK] * 9}
    for route in IMAGE_ROUTES:
        problem(await small_client.post(route, json=nine), 413, "9", "8")
    problem(await small_client.post("/decode", json={"z": [[0.0] * 10] * 9}), 413, "9", "8")
    problem(await small_client.post("/decode", json={"n": 9}), 413, "9", "8")
    problem(await small_client.get("/sample?n=9"), 413, "9", "8")
    assert (await small_client.get("/sample?n=8")).status_code == 200


@pytest.mark.parametrize("n", [8_193, 10**9, 2**63, 10**18])
async def test_far_too_many_images(client: AsyncClient, n: int) -> None:
    problem(await client.get(f"/sample?n={n}"), 413, "8,192")
    problem(await client.post("/decode", json={"n": n}), 413, "8,192")


@pytest.mark.parametrize("route", WORK_ROUTES)
async def test_a_body_that_announces_too_much(small_client: AsyncClient, route: str) -> None:
    sent = []

    async def body() -> AsyncIterator[bytes]:
        sent.append(1)
        yield b"{"

    headers = {"Content-Length": "60001"}
    answer = await small_client.post(route, content=body(), headers=headers)
    problem(answer, 413, "60,001", "60,000")
    assert not sent, "nothing is read"


@pytest.mark.parametrize("route", WORK_ROUTES)
async def test_a_body_that_grows_too_large(small_client: AsyncClient, route: str) -> None:
    sent = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(100):
            sent.append(1)
            yield b" " * 10_000

    problem(await small_client.post(route, content=body()), 413, "60,000")
    assert len(sent) < 10, "the rest is not read"


async def test_an_image_of_too_many_pixels_is_refused_by_its_header(
    small_client: AsyncClient,
) -> None:
    file = image_file(np.zeros((500, 201), dtype=np.uint8))
    answer = await small_client.post("/encode", content=file)
    problem(answer, 413, "100,500", "100,000")
    images = [base64_file(np.zeros((28, 28), dtype=np.uint8)), b64encode(file).decode()]
    answer = await small_client.post("/encode", json={"images": images})
    problem(answer, 413, "images[1]", "100,500", "100,000")
    # Only the header: the pixels that it promises are not there.
    answer = await small_client.post("/encode", content=file[:60])
    problem(answer, 413, "100,500", "100,000")


@pytest.mark.parametrize("side", [5_001, 11_000, 60_000])
async def test_a_decompression_bomb(client: AsyncClient, side: int) -> None:
    """Beyond our limit, beyond the one where Pillow warns, and where it refuses."""
    header = bytearray(image_file(np.zeros((28, 28), dtype=np.uint8), "BMP"))
    header[18:26] = side.to_bytes(4, "little") * 2
    problem(await client.post("/encode", content=bytes(header)), 413, "25,000,000")


# 415: a body type we do not read


@pytest.mark.parametrize("route", WORK_ROUTES)
@pytest.mark.parametrize(
    "content_type", ["text/plain", "image/gif", "application/xml", "application/jsonx", "garbage"]
)
async def test_a_type_that_is_not_read(send: Send, route: str, content_type: str) -> None:
    answer = await send(route, content=b"{}", headers={"Content-Type": content_type})
    problem(answer, 415, content_type, "application/json")


@pytest.mark.parametrize("content", [b"hello", b"GIF89a", b"%PDF-1.7", b"\x00"])
async def test_a_body_without_a_type_that_matches_no_format(send: Send, content: bytes) -> None:
    problem(await send("/encode", content=content), 415, "application/json", "image/png")


async def test_latents_are_no_image_file(send: Send, four: NDArray[np.uint8]) -> None:
    problem(await send("/decode", content=image_file(four[0])), 415, "image/png")


# 422: right syntax, wrong content


async def check_422(send: Send, route: str, body: Any, loc: list[Any], *mentioned: str) -> None:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    found = problem(await send(route, content=content, headers=JSON), 422, *mentioned)
    assert found["errors"][0]["loc"] == loc
    assert len(found["detail"]) < 500, "what is wrong, not all that was sent"
    assert len(orjson.dumps(found)) < 2_000


@pytest.mark.parametrize("route", WORK_ROUTES)
@pytest.mark.parametrize("body", [[], [1], "text", 7, None, True])
async def test_json_that_is_no_object(send: Send, route: str, body: Any) -> None:
    await check_422(send, route, body, ["body"], "object")


@pytest.mark.parametrize("route", IMAGE_ROUTES)
@pytest.mark.parametrize("images", [[], "text", 7, None, {}, True])
async def test_images_that_are_no_list(send: Send, route: str, images: Any) -> None:
    await check_422(send, route, {"images": images}, ["body", "images"], "images")


@pytest.mark.parametrize("route", IMAGE_ROUTES)
async def test_no_images_at_all(send: Send, route: str) -> None:
    await check_422(send, route, {}, ["body", "images"], "images", "missing")
    await check_422(send, route, {"dtype": "uint8"}, ["body", "images"], "missing")


@pytest.mark.parametrize("key", ["image", "Images", "z", "", "y" * 10_000])
async def test_a_field_that_is_not_known(send: Send, key: str) -> None:
    body = {"images": [BLANK], key: 1}
    found = problem(await send("/encode", json=body), 422, key[:20], "images")
    assert len(orjson.dumps(found)) < 2_000, "what is wrong, not all that was sent"
    assert found["errors"][0]["loc"][:1] == ["body"]


@pytest.mark.parametrize("dtype", ["float64", "UINT8", "", 8, None, ["uint8"], {}, "x" * 10_000])
async def test_a_dtype_that_is_not_known(send: Send, dtype: Any) -> None:
    body = {"images": [BLANK], "dtype": dtype}
    await check_422(send, "/encode", body, ["body", "dtype"], "dtype", "uint8", "float32")


WRONG_ITEMS: dict[str, Any] = {
    "a number": 0.5,
    "null": None,
    "a boolean": True,
    "an object": {"pixels": BLANK},
    "an empty list": [],
    "one number too few": [0.0] * 783,
    "one number too many": [0.0] * 785,
    "another size": [[0.0] * 27] * 28,
    "another size, right count": [[0.0] * 14] * 56,
    "two channels": [[[0.0] * 28] * 28] * 2,
    "a batch": [[[[0.0] * 28] * 28]],
    "ragged": [[0.0] * 28] * 27 + [[0.0] * 27],
    "ragged with numbers": [[0.0] * 28] * 27 + [0.0],
    "null inside": [None, *BLANK[1:]],
    "a text inside": ["0.5", *BLANK[1:]],
    "an object inside": [{}, *BLANK[1:]],
    "a list inside": [[0.5], *BLANK[1:]],
    "booleans": [True] * 784,
    "a boolean inside": [*BLANK[1:], True],
    "a boolean among integers": [*[0] * 783, True],
    "a boolean deep inside": [[0.0] * 28] * 27 + [[0.0] * 27 + [True]],
    "strings": [["0"] * 28] * 28,
}


@pytest.mark.parametrize("item", WRONG_ITEMS)
@pytest.mark.parametrize("index", [0, 2])
async def test_an_item_of_the_wrong_shape_or_kind(send: Send, item: str, index: int) -> None:
    images = [BLANK] * 3
    images[index] = WRONG_ITEMS[item]
    loc = ["body", "images", index]
    await check_422(send, "/encode", {"images": images}, loc, f"images[{index}] ", "expected ")
    mixed = [base64_file(np.zeros((28, 28), dtype=np.uint8)), *images]
    loc = ["body", "images", index + 1]
    await check_422(send, "/encode", {"images": mixed}, loc, f"images[{index + 1}] ", "expected ")


async def test_deep_nesting(send: Send) -> None:
    for depth in (60, 70, 1000):
        body = b'{"images": [' + b"[" * depth + b"0" + b"]" * depth + b"]}"
        await check_422(send, "/encode", body, ["body", "images", 0], "images[0]")


@pytest.mark.parametrize(
    "text", ["?", "abcde", "no base64 at all", "data:image/png;base64,iVBO*", "é"]
)
async def test_a_text_that_is_not_base64(send: Send, four: NDArray[np.uint8], text: str) -> None:
    body = {"images": [base64_file(four[0]), text]}
    await check_422(send, "/encode", body, ["body", "images", 1], "images[1]", "base64")


@pytest.mark.parametrize(
    ("dtype", "number", "shown", "limit"),
    [
        ("float32", "-0.1", "-0.1", "[0, 1]"),
        ("float32", "-1e-30", "-1e-30", "[0, 1]"),
        ("float32", "1.5", "1.5", "[0, 1]"),
        ("float32", "1.0000001", "1.0000001", "[0, 1]"),
        ("float32", "255", "255", "uint8"),
        ("float32", "1e300", "1e+300", "[0, 1]"),
        ("float32", str(-(2**63)), "-9.22337203685", "[0, 1]"),
        ("float32", str(2**64 - 1), "1.84467440737", "[0, 1]"),
        ("uint8", "256", "256", "0..255"),
        ("uint8", "-1", "-1", "0..255"),
        ("uint8", "0.5", "0.5", "whole"),
        ("uint8", "254.999", "254.999", "whole"),
        ("uint8", str(2**64 - 1), "1.84467440737", "0..255"),
    ],
)
async def test_a_pixel_out_of_range(
    send: Send, four: NDArray[np.uint8], dtype: str, number: str, shown: str, limit: str
) -> None:
    bad = one_pixel(number).removeprefix(b'{"images": [').removesuffix(b"]}")
    for before in (b"", b"[" + b"0," * 783 + b"0],", b'"' + base64_file(four[0]).encode() + b'",'):
        index = int(bool(before))
        body = b'{"dtype": "%s", "images": [%s%s]}' % (dtype.encode(), before, bad)
        loc = ["body", "images", index]
        mentioned = (f"images[{index}]", shown, "pixel 3", limit)
        await check_422(send, "/anomaly-score", body, loc, *mentioned)


WRONG_LATENTS: dict[str, tuple[Any, list[Any]]] = {
    "nothing": ({}, ["body", "z"]),
    "null": ({"z": None}, ["body", "z"]),
    "empty": ({"z": []}, ["body", "z"]),
    "one flat latent": ({"z": [0.0] * 10}, ["body", "z", 0]),
    "too short": ({"z": [[0.0] * 10, [0.0] * 9]}, ["body", "z", 1]),
    "too deep": ({"z": [[[0.0]] * 10]}, ["body", "z", 0]),
    "text": ({"z": [["0"] * 10]}, ["body", "z", 0]),
    "a boolean": ({"z": [[0.5] * 10, [0.5] * 9 + [True]]}, ["body", "z", 1]),
    "far out": ({"z": [[0.0] * 10, [0.0] * 9 + [1e30]]}, ["body", "z", 1, 9]),
    "far out below": ({"z": [[-(2**62)] * 10]}, ["body", "z", 0, 0]),
    "the lowest integer": ({"z": [[-(2**63)] * 10]}, ["body", "z", 0, 0]),
    "unknown field": ({"z": [[0.0] * 10], "seed": 7}, ["body", "seed"]),
    "n and z": ({"z": [[0.0] * 10], "n": 1}, ["body", "z"]),
    "n of 0": ({"n": 0}, ["body", "n"]),
    "n below 0": ({"n": -1}, ["body", "n"]),
    "n that is a text": ({"n": "4"}, ["body", "n"]),
    "n that is true": ({"n": True}, ["body", "n"]),
    "n that is not whole": ({"n": 1.5}, ["body", "n"]),
    "n that is null": ({"n": None}, ["body", "n"]),
    "seed below 0": ({"n": 1, "seed": -1}, ["body", "seed"]),
    "seed of 65 bits": ({"n": 1, "seed": 2.0**64}, ["body", "seed"]),
    "seed that is a text": ({"n": 1, "seed": "7"}, ["body", "seed"]),
}


@pytest.mark.parametrize("case", WRONG_LATENTS)
async def test_invalid_latents(send: Send, case: str) -> None:
    body, loc = WRONG_LATENTS[case]
    await check_422(send, "/decode", body, loc, str(loc[1]))


@pytest.mark.parametrize("number", [10**19 * 2, 10**30, -(2**63) - 1])
async def test_an_integer_past_64_bits(send: Send, number: int) -> None:
    answer = await send("/encode", content=one_pixel(str(number)), headers=JSON)
    problem(answer, 400 if answer.status_code == 400 else 422, "64 bits")


@pytest.mark.parametrize("seed", ["-1", str(2**64), "x", "1.5", ""])
async def test_an_invalid_seed(send: Send, client: AsyncClient, seed: str) -> None:
    for route in ("/encode", "/reconstruct"):
        answer = await send(f"{route}?sample=true&seed={seed}", json={"images": [BLANK]})
        assert problem(answer, 422, "seed", repr(seed))["errors"][0]["loc"] == ["query", "seed"]
    problem(await client.get(f"/sample?seed={seed}"), 422, "seed", repr(seed))


@pytest.mark.parametrize("temperature", ["-0.1", "10.1", "nan", "inf", "hot", ""])
async def test_an_invalid_temperature(client: AsyncClient, temperature: str) -> None:
    answer = await client.get(f"/sample?temperature={temperature}")
    found = problem(answer, 422, "temperature", repr(temperature))
    assert found["errors"][0]["loc"] == ["query", "temperature"]


@pytest.mark.parametrize("n", ["0", "-1", "x", "1.5", "", "9" * 5_000])
async def test_an_invalid_n(client: AsyncClient, n: str) -> None:
    found = problem(await client.get(f"/sample?n={n}"), 422, "n is")
    assert found["errors"][0]["loc"] == ["query", "n"]
    assert len(found["detail"]) < 300


@pytest.mark.parametrize("alpha", ["0", "1", "2", "-0.1", "nan", "inf", "x", ""])
async def test_an_invalid_alpha(send: Send, alpha: str) -> None:
    answer = await send(f"/anomaly-score?alpha={alpha}", json={"images": [BLANK]})
    found = problem(answer, 422, "alpha", repr(alpha))
    assert found["errors"][0]["loc"] == ["query", "alpha"]


@pytest.mark.parametrize("score", ["nope", "MSE", "", "mse,kl", "x" * 1_000])
async def test_a_score_that_is_not_offered(send: Send, score: str) -> None:
    answer = await send(f"/anomaly-score?score={score}", json={"images": [BLANK]})
    found = problem(answer, 422, score[:20], "mse")
    assert found["errors"][0]["loc"] == ["query", "score"]
    assert len(found["detail"]) < 300


@pytest.mark.parametrize(
    ("method", "path"),
    [*(("POST", route) for route in WORK_ROUTES), ("GET", "/sample")],
)
async def test_a_query_parameter_that_is_not_known(
    client: AsyncClient, method: str, path: str
) -> None:
    answer = await client.request(method, f"{path}?seeed=7", json={"images": [BLANK]})
    assert problem(answer, 422, "seeed")["errors"][0]["loc"] == ["query", "seeed"]


@pytest.mark.parametrize("parameter", ["resize", "invert", "sample"])
async def test_a_switch_that_is_neither_on_nor_off(send: Send, parameter: str) -> None:
    answer = await send(f"/encode?{parameter}=perhaps", json={"images": [BLANK]})
    found = problem(answer, 422, parameter, "'perhaps'")
    assert found["errors"][0]["loc"] == ["query", parameter]


@pytest.mark.parametrize("seconds", ["x", "", "0", "-1", "nan", "inf", "1e999", "1s", "0x10"])
@pytest.mark.parametrize(
    ("method", "path"),
    [*(("POST", route) for route in WORK_ROUTES), ("GET", "/sample")],
)
async def test_an_invalid_x_request_timeout(
    client: AsyncClient, method: str, path: str, seconds: str
) -> None:
    headers = {"X-Request-Timeout": seconds}
    body = {"n": 1} if path == "/decode" else {"images": [BLANK]}
    answer = await client.request(
        method, path, json=body if method == "POST" else None, headers=headers
    )
    found = problem(answer, 422, "X-Request-Timeout", repr(seconds))
    assert found["errors"][0]["loc"] == ["header", "X-Request-Timeout"]


# 404, 405


@pytest.mark.parametrize("path", ["/nope", "/encode/1", "/v3", "/x" * 2_000])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_no_such_route(client: AsyncClient, method: str, path: str) -> None:
    found = problem(await client.request(method, path), 404, path[:100])
    assert len(found["detail"]) < 300


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("/anomaly-score/", "/anomaly-score"),
        ("//livez", "/livez"),
        ("//", "/"),
        ("/Readyz", "/readyz"),
        ("/ENCODE//", "/encode"),
        ("/v2/models/encode/ready/", "/v2/models/encode/ready"),
        ("/V2/", "/v2"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_a_path_that_differs_in_case_or_slashes_names_the_right_one(
    client: AsyncClient, method: str, path: str, near: str
) -> None:
    answer = await client.request(method, f"http://test{path}")
    assert answer.status_code == 404
    said = answer.json()
    assert said.get("detail", said.get("error")) == (
        f"there is no {path} here; did you mean {near}?"
    )


@pytest.mark.parametrize("path", ["/nope/", "//nope", "/Encoder", "/nope" + "/" * 100])
async def test_a_path_near_no_other_names_none(client: AsyncClient, path: str) -> None:
    answer = await client.get(f"http://test{path}")
    problem(answer, 404, "/docs lists what there is")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "BREW"])
@pytest.mark.parametrize("route", WORK_ROUTES)
async def test_no_such_method(client: AsyncClient, route: str, method: str) -> None:
    answer = await client.request(method, route)
    assert answer.headers["allow"] == "POST, OPTIONS"
    if method == "HEAD":
        assert answer.status_code == 405
        assert not answer.content
    else:
        problem(answer, 405, f"{route} takes POST, not {method}")


@pytest.mark.parametrize("route", ["/sample", "/model", "/livez", "/readyz", "/metrics"])
async def test_what_is_read_is_not_written(client: AsyncClient, route: str) -> None:
    answer = await client.post(route, json={})
    problem(answer, 405, f"{route} takes GET, not POST")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
