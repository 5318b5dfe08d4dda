"""JSON as people's programs write it: read, or refused with the place and what to do."""

from __future__ import annotations

import textwrap
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import orjson
import pytest
from httpx import AsyncClient, Response

from tests.api.bodies import Array, Images, form
from tests.api.helpers import WORK_ROUTES, base64_file, image_file, problem, uint8_body

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
BOM = b"\xef\xbb\xbf"


async def post(
    client: AsyncClient, route: str, body: Any, headers: dict[str, str] | None = None
) -> Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return await client.post(route, content=content, headers=JSON if headers is None else headers)


# base64


def plain(file: bytes) -> str:
    return b64encode(file).decode()


BASE64: dict[str, Callable[[bytes], str]] = {
    "a data URI": lambda file: f"data:image/png;base64,{plain(file)}",
    "a data URI in capitals": lambda file: f"DATA:IMAGE/PNG;BASE64,{plain(file)}",
    "with parameters": lambda file: f"data:image/png;name=a.png;charset=utf-8;base64,{plain(file)}",
    "without a type": lambda file: f"data:;base64,{plain(file)}",
    "after a blank": lambda file: f"\n data:image/png;base64, {plain(file)}",
    "URL-safe": lambda file: urlsafe_b64encode(file).decode(),
    "without padding": lambda file: plain(file).rstrip("="),
    "too much padding": lambda file: plain(file) + "==",
    "wrapped": lambda file: "\n".join(textwrap.wrap(plain(file), 76)) + "\n",
    "wrapped with CRLF and indented": lambda file: "\r\n  ".join(textwrap.wrap(plain(file), 64)),
    "all at once": lambda file: (
        "data:image/png;base64,\n"
        + "\r\n".join(textwrap.wrap(urlsafe_b64encode(file).decode().rstrip("="), 60))
    ),
}


@pytest.mark.parametrize("kind", BASE64)
@pytest.mark.parametrize("length", range(3))
async def test_base64_as_people_send_it(
    client: AsyncClient, four: Images, mu_of_four: Array, kind: str, length: int
) -> None:
    # Bytes behind a PNG's end are not read; with them, each length of padding occurs.
    files = [image_file(image) for image in four]
    files = [file + b"\xfb\xff\xfe" + bytes((length - len(file)) % 3) for file in files]
    assert "-" in urlsafe_b64encode(files[0]).decode() or "_" in BASE64["URL-safe"](files[0])
    answer = await post(client, "/encode", {"images": [BASE64[kind](file) for file in files]})
    assert np.array(answer.json()["mu"]) == pytest.approx(mu_of_four, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("iVBOR!0KGgo=", "'!' at 5"),
        ("data:image/png;base64,iVBOR!", "'!' at 27"),
        ("iVBO\n\nRw0K*", "'*' at 10"),
        ("iVBO Rw0K", "' ' at 4"),
        ("iVBO Rw0K", "; form encoding turns + into a space"),
        ("AAAA \nBB CC", "' ' at 8"),
        ("AAAA\n  BB\t\tCC", "'\\t' at 9"),
        ("\n\tdata:;base64, \n AAAA \r\n*", "'*' at 25"),
        ("AA!A A", "'!' at 2"),
        ("AA A!A", "' ' at 2"),
        ("iVBO=Rw0K", "'=' at 4"),
        ("iVBO%2BRw", "percent-encoded"),
        ("iVBO\\nRw0", "escaped twice"),
        ("digit.png", "'.' at 5"),
        ("iVBOR", "cut short"),
        ("", "empty string"),
        ("   ", "empty string"),
        ("data:image/png;base64,", "empty string"),
        ("data:image/png,%89PNG", "a data URI without ;base64"),
        ("b'iVBORw0KGgo='", "as Python prints bytes"),
        ("https://example.com/digit.png", "nothing is fetched"),
        ("ü" * 9, "'ü' at 0"),
    ],
)
async def test_what_is_not_base64_is_shown_with_its_place(
    client: AsyncClient, digit: Images, text: str, words: str
) -> None:
    good = base64_file(digit)
    answer = await post(client, "/encode", {"images": [good, text]})
    found = problem(answer, 422, "images[1] ", words)
    assert found["errors"][0]["loc"] == ["body", "images", 1]


@pytest.mark.parametrize(
    "text",
    [
        "A" + " " * 1_000_000 + "!",
        "A" + "\t" * 1_000_000 + "A",
        "A \n" * 300_000 + "!",
        "A" + "\n " * 500_000 + "!",
        "data:" + " " * 1_000_000,
    ],
    ids=["blanks", "tabs", "lines", "indents", "a data URI"],
)
async def test_a_million_blanks_take_no_time(client: AsyncClient, text: str) -> None:
    """They are searched with the GIL held, while all other requests wait."""
    began = perf_counter()
    problem(await post(client, "/encode", {"images": [text]}), 422, "images[0] ")
    assert perf_counter() - began < 1


# Byte order marks, and text that is not UTF-8


@pytest.mark.parametrize("headers", [JSON, {}, {"Content-Type": "text/json"}], ids=str)
async def test_a_byte_order_mark_is_skipped(
    client: AsyncClient, four: Images, mu_of_four: Array, headers: dict[str, str]
) -> None:
    body = orjson.dumps(uint8_body(four))
    for content in (BOM + body, BOM + b"\r\n" + body):
        answer = await post(client, "/encode", content, headers)
        assert (np.array(answer.json()["mu"]) == mu_of_four).all()
    latents = BOM + b'{"n": 2, "seed": 7}'
    assert (await post(client, "/decode", latents, headers)).status_code == 200
    files = BOM + orjson.dumps({"images": [base64_file(four[0])]})
    assert (await post(client, "/encode", files, headers)).status_code == 200


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
async def test_utf_16_is_named(client: AsyncClient, encoding: str) -> None:
    body = '{"images": []}'.encode(encoding)
    problem(await post(client, "/encode", body), 400, "UTF-16", "UTF-8")
    answer = await post(client, "/encode", body, {})
    problem(answer, 400 if body.startswith(b"{") else 415, "UTF-16")


async def test_bytes_that_are_not_utf_8_have_a_place(client: AsyncClient) -> None:
    problem(await post(client, "/encode", b'{"images": ["\xff"]}'), 400, "not UTF-8 at byte 13")


# What is not JSON


@pytest.mark.parametrize("headers", [JSON, {}], ids=str)
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("NaN", "NaN is not JSON"),
        ("nan", "nan is not JSON"),
        ("-NaN", "-NaN is not JSON"),
        ("Infinity", "Infinity is not JSON"),
        ("-Infinity", "-Infinity is not JSON"),
        ("inf", "inf is not JSON"),
        ("True", "JSON writes true, not True"),
        ("None", "JSON writes null, not None"),
        ("undefined", "undefined is not JSON"),
        ("'a'", "strings take double quotes"),
        ("01", "leading zero"),
        (".5", "digit"),
        ("1e999", "infinity"),
    ],
)
async def test_what_is_not_json_has_its_place(
    client: AsyncClient, value: str, words: str, headers: dict[str, str]
) -> None:
    for route, name in (("/decode", "z"), ("/encode", "images"), ("/anomaly-score", "images")):
        start = f'{{"{name}": [[0.5,\n  0, '
        body = f"{start}{value}, 0]]}}".encode()
        answer = await post(client, route, body, headers)
        problem(answer, 400, words, "at line 2, column 6")
        answer = await post(client, route, BOM + body, headers)
        problem(answer, 400, words, "at line 2, column 6")


async def test_ten_million_words_that_are_no_values_take_no_time(client: AsyncClient) -> None:
    body = b'{"images": ["' + b"NaN" * 3_000_000 + b'", tru]}'
    began = perf_counter()
    answer = await post(client, "/encode", body)
    assert perf_counter() - began < 1
    assert "NaN" not in problem(answer, 400, "the body is not JSON")["detail"]


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
async def test_a_file_in_place_of_json_is_named(
    client: AsyncClient, digit: Images, file_format: str
) -> None:
    name = {"WEBP": "WebP"}.get(file_format, file_format)
    for body in (image_file(digit, file_format), image_file(digit, file_format) + b"\xff"):
        answer = await post(client, "/encode", body)
        words = f"the body is not JSON: it is a {name} file, which needs its own Content-Type"
        assert problem(answer, 400)["detail"] == words
    answer = await post(client, "/encode", b"%PDF-1.7")
    assert problem(answer, 400)["detail"] == "the body is not JSON: it is a PDF file"
    # These bytes at 8 are those of a raw photo, but JSON was meant.
    problem(await post(client, "/encode", b'{"a": "\0CR\2\0'), 400, "at line 1")


async def test_nan_far_behind_has_its_place_too(client: AsyncClient) -> None:
    start = b'{"dtype": "uint8", "images": ["NaN, and so on", ' + b"[0,0],\n" * 300_000
    answer = await post(client, "/encode", start + b"[NaN]]}")
    problem(answer, 400, f"at byte {len(start) + 1:,}: NaN is not JSON")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"images": [[1,]]}', "trailing comma"),
        (b"{images: []}", "line 1, column 2"),
        (b'{"images": [] "dtype": 1}', "line 1, column 15"),
        (b'{"images": [[0, 1]', "unexpected end"),
        (b'{"images": []} {}', "line 1, column 16"),
        (b'{"images": [] // none\n}', "comments"),
    ],
)
async def test_broken_json_has_its_place(client: AsyncClient, body: bytes, words: str) -> None:
    problem(await post(client, "/encode", body), 400, "the body is not JSON at line 1", words)


@pytest.mark.parametrize("route", WORK_ROUTES)
@pytest.mark.parametrize("inside", [b"[", b'{"a":'])
@pytest.mark.parametrize("closed", [True, False])
async def test_ten_thousand_brackets(
    client: AsyncClient, route: str, inside: bytes, closed: bool
) -> None:
    end = (b"0" + (b"]" if inside == b"[" else b"}") * 10_000) if closed else b""
    for headers in (JSON, {}):
        answer = await post(client, route, inside * 10_000 + end, headers)
        problem(answer, 400, "nested too deep", "1,024")
    name = b"z" if route == "/decode" else b"images"
    body = b'{"%b": %b%b%b' % (name, inside * 10_000, end, b"}" if closed else b"")
    problem(await post(client, route, body), 400, "nested too deep", "1,024")


# What is JSON, and not what is expected


ROW: list[Any] = [0.0] * 10
IMAGE: list[Any] = [[0.0] * 28] * 28


def with_last(values: list[Any], last: Any) -> list[Any]:
    return [*values[:-1], last]


@pytest.mark.parametrize(
    ("z", "words"),
    [
        ([with_last(ROW, "1")], "z[0] has a text ('1') at 9, expected a number"),
        ([ROW, with_last(ROW, True)], "z[1] has true at 9"),
        ([with_last(ROW, False)], "z[0] has false at 9"),
        ([[None, *ROW[1:]]], "z[0] has null at 0"),
        ([with_last(ROW, {})], "z[0] has an object at 9"),
        ([with_last(ROW, [1])], "z[0] has an array at 9"),
        ([ROW, ROW[1:]], "z[1] is an array of shape [9], expected numbers of shape [10]"),
        ([ROW, "x"], "z[1] is a string, expected numbers of shape [10]"),
        (ROW, "; z is a list: put a single one into another pair of brackets"),
        ([with_last(ROW, "x" * 1_000)], "at 9, expected a number"),
    ],
)
async def test_a_latent_s_wrong_element_is_named(
    client: AsyncClient, z: list[Any], words: str
) -> None:
    found = problem(await post(client, "/decode", {"z": z}), 422, words)
    assert len(found["detail"]) < 200
    assert found["errors"][0]["loc"][:2] == ["body", "z"]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (with_last(IMAGE, with_last(IMAGE[0], "1")), "has a text ('1') at [27][27]"),
        (with_last(IMAGE, with_last(IMAGE[0], True)), "has true at [27][27]"),
        (with_last(IMAGE, [0.0] * 27), "has an array of 27 at 27, expected 28"),
        (with_last(IMAGE, 0.0), "has a number at 27, expected an array of 28"),
        (with_last(IMAGE, "row"), "has a text ('row') at 27, expected an array of 28"),
        (["row", *IMAGE[1:]], "has a text ('row') at 0, expected an array of 28"),
        ([with_last(IMAGE, with_last(IMAGE[0], None))], "has null at [0][27][27]"),
        (with_last([0] * 784, "255"), "has a text ('255') at 783"),
        ([[0.0] * 27] * 28, "is an array of shape [28, 27], expected numbers of shape [28, 28]"),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
async def test_an_image_s_wrong_element_is_named(
    client: AsyncClient, digit: Images, image: list[Any], words: str, dtype: str
) -> None:
    for before in ([], [IMAGE], [base64_file(digit)]):
        answer = await post(client, "/encode", {"images": [*before, image], "dtype": dtype})
        problem(answer, 422, f"images[{len(before)}] {words}")


async def test_one_image_without_the_list_around_it(client: AsyncClient) -> None:
    for images in (IMAGE, [0.0] * 784):
        answer = await post(client, "/encode", {"images": images})
        problem(answer, 422, "; images is a list: put a single one into another pair of brackets")
    problem(await post(client, "/encode", [IMAGE]), 422, "expected an object with images")


@pytest.mark.parametrize(
    ("route", "name"),
    [
        ("/anomaly-score", "alpha"),
        ("/anomaly-score", "score"),
        ("/anomaly-score", "seed"),
        ("/anomaly-score", "map"),
        ("/anomaly-score", "fdr"),
        ("/anomaly-score", "invert"),
        ("/anomaly-score", "bits"),
        ("/encode", "sample"),
        ("/encode", "seed"),
        ("/reconstruct", "scale"),
        ("/reconstruct", "resize"),
        ("/decode", "scale"),
        ("/decode", "dtype"),
    ],
)
async def test_a_query_parameter_in_the_body(client: AsyncClient, route: str, name: str) -> None:
    field, value = ("z", [ROW]) if route == "/decode" else ("images", [IMAGE])
    answer = await post(client, route, {field: value, name: 1})
    found = problem(answer, 422, f"goes into the query: ?{name}=…")
    assert found["errors"][0]["loc"] == ["body", name]
    answer = await post(client, route, {name: 1, field: value}, {})
    problem(answer, 422, f"goes into the query: ?{name}=…")


async def test_a_parameter_that_the_route_does_not_have_gets_no_such_hint(
    client: AsyncClient,
) -> None:
    answer = await post(client, "/encode", {"images": [IMAGE], "alpha": 0.1})
    assert "?alpha" not in problem(answer, 422, "'alpha' is not a known field")["detail"]


async def test_a_query_parameter_in_a_form(client: AsyncClient, digit: Images) -> None:
    content = form(image_file(digit)).replace(b"--cut--\r\n", form(b"0.05", name="alpha"))
    headers = {"Content-Type": "multipart/form-data; boundary=cut"}
    answer = await client.post("/anomaly-score", content=content, headers=headers)
    problem(answer, 422, "'alpha'", "goes into the query: ?alpha=…")


@pytest.mark.parametrize(
    ("wrong", "right"), [("image", "images"), ("Images", "images"), ("seeds", "?seed=…")]
)
async def test_a_misspelt_field(client: AsyncClient, wrong: str, right: str) -> None:
    answer = await post(client, "/encode", {wrong: [IMAGE]})
    problem(answer, 422, f"{wrong!r} is not a known field", f"did you mean {right}")


async def test_json_lines_are_named(client: AsyncClient) -> None:
    for text in (b'{"z": [[0]]}\n{"z": [[0]]}\n', b"[0]\r\n\r\n[1]"):
        problem(await post(client, "/decode", text), 400, "at line", "JSON Lines are not read")
    answer = await post(client, "/decode", b'{"z": [[0]]} x')
    assert "JSON Lines" not in problem(answer, 400, "content after document")["detail"]


async def test_a_number_without_a_digit_before_its_point(client: AsyncClient) -> None:
    answer = await post(client, "/decode", b'{"z": [[0, .5]]}')
    problem(answer, 400, "at line 1, column 12: a number begins with a digit")


@pytest.mark.parametrize("item", [None, True, 0.5, {"b64": "iVBORw0KGgo"}])
async def test_what_is_no_image_hears_of_base64(client: AsyncClient, item: Any) -> None:
    answer = await post(client, "/encode", {"images": [item]})
    problem(answer, 422, "images[0] is a" if item else "is null", "an image file in base64")


async def test_an_object_of_javascript_is_named(client: AsyncClient) -> None:
    problem(await post(client, "/encode", b"[object Object]"), 400, "takes JSON.stringify")
