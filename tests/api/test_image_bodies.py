"""The same pixels give the same numbers, in any body type."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray
from PIL import Image

from tests.api.bodies import JSON, NPY, RAW, npy, post
from tests.api.helpers import (
    IMAGE_ROUTES,
    LOSSLESS,
    base64_file,
    image_file,
    problem,
    uint8_body,
)

pytestmark = pytest.mark.anyio

Images = NDArray[np.uint8]

JSON_FORMS: dict[str, Callable[[Images], dict[str, Any]]] = {
    "nested uint8": lambda x: {"images": x[:, 0].tolist(), "dtype": "uint8"},
    "with channel": lambda x: {"images": x.tolist(), "dtype": "uint8"},
    "flat": lambda x: {"images": x.reshape(len(x), -1).tolist(), "dtype": "uint8"},
    "floats": lambda x: {"images": (x[:, 0] / 255).tolist()},
    "floats by name": lambda x: {"images": (x / 255).tolist(), "dtype": "float32"},
    "whole floats": lambda x: {"images": x[:, 0].astype(float).tolist(), "dtype": "uint8"},
    "mixed shapes": lambda x: {
        "images": [x[0].tolist(), *x[1:].reshape(len(x) - 1, -1).tolist()],
        "dtype": "uint8",
    },
    "files": lambda x: {"images": [base64_file(image) for image in x]},
    "files of all formats": lambda x: {
        "images": [base64_file(image, name) for image, name in zip(x, LOSSLESS, strict=True)]
    },
    "files and numbers": lambda x: {
        "images": [base64_file(x[0]), x[1, 0].tolist(), base64_file(x[2]), x[3].tolist()],
        "dtype": "uint8",
    },
    "files and floats": lambda x: {
        "images": [(x[0] / 255).tolist(), *map(base64_file, x[1:3]), (x[3] / 255).tolist()]
    },
}


async def score(client: AsyncClient, **body: Any) -> NDArray[np.float64]:
    answer = await client.post("/anomaly-score", **body)
    assert answer.status_code == 200, answer.text[:500]
    found: dict[str, Any] = answer.json()
    return np.array([found["score"], found["kl"]])


def near(expected: NDArray[np.float64]) -> Any:
    return pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.fixture
async def expected(client: AsyncClient, four: Images) -> NDArray[np.float64]:
    return await score(client, json=JSON_FORMS["nested uint8"](four))


@pytest.mark.parametrize("form", JSON_FORMS)
async def test_json_forms_agree(
    client: AsyncClient, four: Images, expected: NDArray[np.float64], form: str
) -> None:
    assert await score(client, json=JSON_FORMS[form](four)) == near(expected)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-8",
        "Application/JSON",
    ],
)
async def test_json_is_known_by_its_type_or_its_first_byte(
    client: AsyncClient,
    four: Images,
    expected: NDArray[np.float64],
    content_type: str | None,
) -> None:
    content = b" \n" + orjson.dumps(JSON_FORMS["nested uint8"](four))
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert await score(client, content=content, headers=headers) == near(expected)


@pytest.mark.parametrize("file_format", LOSSLESS)
@pytest.mark.parametrize("named", ["by name", "", "application/x-www-form-urlencoded"])
async def test_an_image_file_is_a_body(
    client: AsyncClient,
    four: Images,
    expected: NDArray[np.float64],
    file_format: str,
    named: str,
) -> None:
    content_type = f"image/{file_format.lower()}" if named == "by name" else named
    headers = {"Content-Type": content_type} if content_type else {}
    found = await score(client, content=image_file(four[0], file_format), headers=headers)
    assert found == near(expected[:, :1])


@pytest.mark.parametrize("content_type", ["image/jpeg", None])
async def test_a_jpeg_agrees_with_its_own_pixels(
    client: AsyncClient, four: Images, content_type: str | None, tmp_path: Any
) -> None:
    (tmp_path / "digit.jpg").write_bytes(image_file(four[0], "JPEG", quality=90))
    with Image.open(tmp_path / "digit.jpg") as image:
        pixels = np.asarray(image)[None, None]
    headers = {"Content-Type": content_type} if content_type else {}
    content = (tmp_path / "digit.jpg").read_bytes()
    by_numbers = await score(client, json=JSON_FORMS["nested uint8"](pixels))
    assert await score(client, content=content, headers=headers) == near(by_numbers)
    in_json = {"images": [b64encode(content).decode()]}
    assert await score(client, json=in_json) == near(by_numbers)


@pytest.mark.parametrize("route", IMAGE_ROUTES)
async def test_each_route_takes_a_file(client: AsyncClient, four: Images, route: str) -> None:
    by_file = await client.post(route, content=image_file(four[0]))
    by_json = await client.post(route, json={"images": [base64_file(four[0])]})
    assert by_file.status_code == 200
    assert by_file.json() == by_json.json()


async def test_colour_is_made_grey(
    client: AsyncClient, four: Images, expected: NDArray[np.float64], tmp_path: Any
) -> None:
    Image.fromarray(four[0, 0]).convert("RGB").save(tmp_path / "rgb.png")
    found = await score(client, content=(tmp_path / "rgb.png").read_bytes())
    assert found == near(expected[:, :1])


async def test_a_file_of_another_size_is_resized(client: AsyncClient, four: Images) -> None:
    large = np.kron(four[0, 0], np.ones((10, 10), dtype=np.uint8))
    found, own = [
        (await client.post("/encode", content=image_file(x))).json()["mu"] for x in (large, four[0])
    ]
    assert np.abs(np.array(found) - own).max() < 0.5, "still the same digit"


async def test_resize_false_refuses_another_size(client: AsyncClient, four: Images) -> None:
    own = await client.post("/encode?resize=false", content=image_file(four[0]))
    assert own.status_code == 200
    other = image_file(np.zeros((20, 30), dtype=np.uint8))
    answer = await client.post("/encode?resize=false", content=other)
    assert problem(answer, 422, "30", "20", "28")["errors"][0]["loc"] == ["body"]
    images = [base64_file(four[0]), b64encode(other).decode()]
    answer = await client.post("/encode?resize=false", json={"images": images})
    assert problem(answer, 422, "images[1]")["errors"][0]["loc"] == ["body", "images", 1]


async def test_invert_is_for_dark_ink_on_light_paper(
    client: AsyncClient, four: Images, expected: NDArray[np.float64]
) -> None:
    for body in (
        {"content": image_file(255 - four[0])},
        {"json": {"images": [base64_file(255 - four[0])]}},
    ):
        answer = await client.post("/anomaly-score?invert=true", **body)
        assert answer.json()["score"] == near(expected[:1, 0])


@pytest.mark.parametrize(
    "route", ["/anomaly-score?invert=true", "/anomaly-score?invert=1&score=mse"]
)
async def test_invert_is_for_numbers_too(client: AsyncClient, four: Images, route: str) -> None:
    """Of every type, alone or beside a file, at once or by a thread: never ignored."""
    on_paper = 255 - four
    floats = (on_paper / 255).astype(np.float32)
    expected = (await post(client, route.replace("invert", "resize"), npy(four), NPY)).json()
    mixed = {
        "dtype": "uint8",
        "images": [base64_file(on_paper[0]), *on_paper[1:].tolist()],
    }
    for content, content_type in (
        (npy(on_paper), NPY),
        (npy(floats), NPY),
        (on_paper.tobytes(), RAW),
        (orjson.dumps(uint8_body(on_paper)), JSON),
        (orjson.dumps({"images": floats.tolist()}), JSON),
        (orjson.dumps({"images": floats[:, 0].tolist()}, option=orjson.OPT_INDENT_2), JSON),
        (orjson.dumps(mixed), JSON),
    ):
        for _ in range(2):  # the second may be answered directly
            found = (await post(client, route, content, content_type)).json()
            assert found["score"] == near(np.array(expected["score"])), content_type


async def test_a_photograph_is_read_beside_small_files(client: AsyncClient) -> None:
    """A file of many pixels takes another path than a small one."""
    grey = np.full((2000, 1500), 128, dtype=np.uint8)
    answer = await client.post("/encode", content=image_file(grey))
    small = await client.post("/encode", content=image_file(grey[:28, :28]))
    assert answer.json() == small.json()


@pytest.mark.parametrize("declared", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("real", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
async def test_an_image_of_another_format_than_declared_is_read_or_refused(
    client: AsyncClient, four: Images, declared: str, real: str
) -> None:
    headers = {"Content-Type": f"image/{declared.lower()}"}
    answer = await client.post("/encode", content=image_file(four[0], real), headers=headers)
    if declared == real or answer.status_code == 200:
        assert len(answer.json()["mu"]) == 1
    else:
        problem(answer, 400)
