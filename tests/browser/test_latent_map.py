"""The map of the latent space, by mouse and by keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Request, Response, Route, expect

from tests.browser.latent_view import (
    SETTLED,
    button,
    changed,
    hash_has,
    live,
    moved,
    picture,
    ready,
    slider,
)
from tests.browser.opening import new_page
from tests.processes import Server, running

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def two_dimensional() -> Iterator[Server]:
    with running("--bundle", "mnist-2d") as server:
        yield server


@pytest.fixture
def plane(browser: Browser, two_dimensional: Server) -> Iterator[Page]:
    """The view of a bundle with two latent dimensions."""
    page = new_page(browser)
    page.goto(f"{two_dimensional.url}/#latent")
    yield ready(page)
    page.context.close()


def test_the_map_by_mouse(latent: Page, sample: dict[str, Any]) -> None:
    plot = latent.get_by_role("application")
    box = plot.bounding_box()
    assert box is not None
    latent.mouse.move(box["x"] + box["width"] * 0.45, box["y"] + box["height"] / 2)
    words = latent.locator(".side p")
    expect(words).to_contain_text("An image of class")
    expect(latent.locator(".side canvas")).to_be_visible()
    latent.mouse.down()
    latent.mouse.up()
    assert is_one_of(moved(latent, [0.0] * 10), sample)


def is_one_of(z: list[float], sample: dict[str, Any]) -> bool:
    distance = np.abs(np.asarray(sample["mu"]) - z).max(axis=1)
    return bool(distance.min() < 0.006)


def test_the_map_by_keyboard(latent: Page, sample: dict[str, Any]) -> None:
    plot = latent.get_by_role("application", name="Map of the latent space with 3,000 images")
    plot.focus()
    words = latent.locator(".side p")
    heard, places = words.inner_text(), []
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowRight"):
        latent.keyboard.press(key)
        expect(words).not_to_have_text(heard)
        heard = words.inner_text()
        place = re.search(r"of class \d at \((.*), ", heard)
        assert place is not None, heard
        places.append(float(place[1].replace("−", "-")))
    assert places == sorted(set(places)), "each is further right"
    latent.keyboard.press("Enter")
    assert is_one_of(moved(latent, [0.0] * 10), sample)


def test_one_class_is_shown(latent: Page) -> None:
    canvas = latent.locator(".latent-map > canvas").first
    before = picture(canvas)
    one = latent.locator(".legend button").nth(1)
    one.click()
    expect(one).to_have_attribute("aria-pressed", "true")
    changed(canvas, before)
    latent.get_by_role("application").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowUp"):
        latent.keyboard.press(key)
        expect(latent.locator(".side p")).to_contain_text("of class 1 at")
    one.click()
    expect(one).to_have_attribute("aria-pressed", "false")


def test_an_image_that_was_looked_at_is_on_the_map(page: Page) -> None:
    """Scored in Look, it is on the map where its posterior mean is, and can be walked to."""
    name = "noise (unusual)"
    encoded: list[Response] = []

    def note(response: Response) -> None:
        if "/encode" in response.url:
            encoded.append(response)

    page.on("response", note)
    page.get_by_role("button", name="noise", exact=True).click()
    expect(page.locator(".verdict")).to_contain_text("noise: score")
    page.get_by_role("link", name="Latent space").click()
    ready(page)
    seen = page.get_by_role("application").get_by_role("button", name=name)
    expect(seen).to_be_visible()
    mu = encoded[-1].json()["mu"][0]
    seen.hover()
    expect(page.locator(".side p")).to_contain_text(f"{name} at (")
    seen.press("Enter")
    z = moved(page, [0.0] * 10)
    assert np.allclose(z, mu, atol=0.006)
    page.get_by_role("group", name="To", exact=True).get_by_role("button", name=name).click()
    hash_has(page, f"to={'_'.join(f'{value:g}' for value in z)}")


def test_a_bundle_without_posterior_means(open_page: OpenPage, watched: Any) -> None:
    watched.allowed.append("404")
    page = open_page()
    detail = "bundle mine keeps no posterior means: vae calibrate adds them"

    def refuse(route: Route) -> None:
        problem = {"title": "Not Found", "status": 404, "detail": detail}
        route.fulfill(status=404, content_type="application/problem+json", body=json.dumps(problem))

    page.route("**/model/latents", refuse)
    page.get_by_role("link", name="Latent space").click()
    expect(page.get_by_text(detail)).to_be_visible()
    expect(page.get_by_role("application")).to_have_count(0)
    before = picture(live(page))
    slider(page, "z10").fill("2")
    changed(live(page), before)
    expect(page.locator(".walk .stack > .picture canvas")).to_have_count(3)


def test_the_manifold(plane: Page) -> None:
    requests: list[Request] = []
    plane.on("request", lambda request: requests.append(request))
    canvas = plane.locator(".latent-map > canvas").first
    before = picture(canvas)
    button(plane, "Images").click()
    changed(canvas, before)
    assert [re.sub(r".*/", "", request.url) for request in requests] == ["decode?dtype=uint8"]
    hash_has(plane, "map=images")

    box = plane.get_by_role("application").bounding_box()
    assert box is not None
    plane.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    words = plane.locator(".side p")
    expect(words).to_contain_text("The place at")
    probe = plane.locator(".side canvas")
    expect(probe).to_be_visible()
    probe.evaluate(SETTLED)
    here = picture(probe)
    plane.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.75)
    changed(probe, here)
    plane.mouse.down()
    plane.mouse.up()
    z = moved(plane, [0.0] * 2)
    place = re.search(r"\((.*), (.*)\)", words.inner_text().replace("−", "-"))
    assert place is not None
    assert z == [float(place[1]), float(place[2])]
    assert z[0] > 0 > z[1], "to the right and below the middle"

    plane.get_by_role("application").focus()
    plane.keyboard.press("ArrowLeft")
    plane.keyboard.press("Enter")
    assert moved(plane, z)[0] < z[0]
