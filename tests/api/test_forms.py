"""multipart/form-data."""

from __future__ import annotations

import numpy as np
import pytest
from httpx import AsyncClient

from tests.api.bodies import BLANK, FORM, JSON, NPY, RAW, Array, Images, form, mu, post
from tests.api.helpers import LOSSLESS, image_file, problem

pytestmark = pytest.mark.anyio


async def test_a_form_keeps_the_order_of_its_parts(
    client: AsyncClient, four: Images, mu_of_four: Array
) -> None:
    formats = [*LOSSLESS]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2], [1, 1]):
        files = [image_file(four[i], formats[i]) for i in order]
        assert await mu(client, form(*files), FORM) == pytest.approx(mu_of_four[order], abs=1e-5)
        sent = [("images", ("ünïcode.png", file, "image/png")) for file in files]
        answer = await client.post("/encode", files=sent)
        assert np.array(answer.json()["mu"]) == pytest.approx(mu_of_four[order], abs=1e-5)


async def test_a_form_of_files_larger_than_a_part_s_first_block(client: AsyncClient) -> None:
    """Sizes around powers of two, boundaries and line ends inside the files."""
    texts = [b"\r\n--cu", b"\r\n--cut-", b"--cut--\r\n", b"\r\n" * 5_000, b"-" * 70_000]
    file = image_file(BLANK)
    files = [file + text for text in texts]  # Pillow does not look past a PNG's end
    assert (await mu(client, form(*files), FORM)).shape == (5, 10)


@pytest.mark.parametrize("quoted", ['"cut"', "cut; charset=utf-8", '"cut"; charset="utf-8"'])
async def test_a_boundary_may_be_quoted_and_followed_by_parameters(
    client: AsyncClient, four: Images, mu_of_four: Array, quoted: str
) -> None:
    body = form(image_file(four[1]))
    for name in ("boundary", "Boundary"):
        found = await mu(client, body, f"multipart/form-data; {name}={quoted}")
        assert found == pytest.approx(mu_of_four[1:2], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "mentioned"),
    [
        (form(b"x"), 400, "images[0]"),
        (form(image_file(BLANK), b"x", image_file(BLANK)), 400, "images[1]"),
        (form(image_file(BLANK), image_file(BLANK)[:50]), 400, "images[1]"),
        (form(image_file(BLANK), closed=False), 400, "cut short"),
        (form(image_file(BLANK))[:-40], 400, "cut short"),
        (form(image_file(BLANK))[:20], 400, "cut short"),
        (form(), 422, "images"),
        (b"\r\n--cut--\r\n", 422, "images"),
        (form(image_file(BLANK), name="image"), 422, "'image'"),
        (form(image_file(BLANK), name=""), 422, "'images'"),
        (form(image_file(BLANK))[:-9] + form(b"1", name="dtype"), 422, "'dtype'"),
        (b"--cut\r\n\r\nx\r\n--cut--\r\n", 422, "'images'"),
        (b"--cut\r\nContent-Disposition\r\n\r\nx\r\n--cut--\r\n", 400, "multipart"),
        (b"--other\r\n\r\nx\r\n--other--\r\n", 400, "multipart"),
        (b"x", 400, "multipart"),
        (b"\xff" * 1_000, 400, "multipart"),
        (b"--cut\r\n" + b"A: b\r\n" * 10_000 + b"\r\nx\r\n--cut--\r\n", 400, "multipart"),
        (b"--cut\r\nA: " + b"b" * 100_000 + b"\r\n\r\nx\r\n--cut--\r\n", 400, "multipart"),
    ],
)
async def test_a_form_that_is_wrong(
    client: AsyncClient, body: bytes, status: int, mentioned: str
) -> None:
    problem(await post(client, "/encode", body, FORM), status, mentioned)


@pytest.mark.parametrize(
    "parameters", ["", ";", "; boundary", "; boundary=", '; boundary=""', "; charset=utf-8"]
)
async def test_a_form_without_a_boundary(client: AsyncClient, parameters: str) -> None:
    content_type = f"multipart/form-data{parameters}"
    problem(await post(client, "/encode", form(b"x"), content_type), 400, "boundary")


@pytest.mark.parametrize("boundary", ["b" * 300, "b" * 10_000, "bogus''%ff", "\xe9\xff"])
async def test_a_form_with_an_odd_boundary(client: AsyncClient, boundary: str) -> None:
    for name in ("boundary", "boundary*"):
        content_type = f"multipart/form-data; {name}={boundary}".encode("latin-1")
        headers = [(b"Content-Type", content_type)]
        found = problem(await client.post("/encode", content=form(b"x"), headers=headers), 400)
        assert len(found["detail"]) < 400


async def test_a_form_has_no_latents(client: AsyncClient) -> None:
    problem(await post(client, "/decode", form(b"x"), FORM), 415, JSON, NPY, RAW)


async def test_a_form_without_a_boundary_hears_who_sets_it(client: AsyncClient) -> None:
    """A page that sets the header of a fetch with FormData takes the boundary away."""
    answer = await post(client, "/encode", form(image_file(BLANK)), "multipart/form-data")
    problem(answer, 400, "no boundary: leave the header to the client")


async def test_several_files_in_one_part_are_refused(client: AsyncClient) -> None:
    """As `curl -F images=@a.png,b.png` sends them."""
    head = b'--cut\r\nContent-Disposition: form-data; name="images"\r\n'
    inner = b"Content-Type: multipart/mixed; boundary=in\r\n\r\n--in\r\n\r\nx\r\n--in--\r\n"
    answer = await post(client, "/encode", head + inner + b"--cut--\r\n", FORM)
    problem(answer, 422, "several files in one part", "-F images=@A")
