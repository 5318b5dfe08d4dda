"""The view of the latent space, as people use it: its sliders, its samples, its links."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.latent_view import (
    SETTLED,
    button,
    changed,
    hash_has,
    live,
    moved,
    picture,
    point,
    ready,
    slider,
    sliders_point,
)
from tests.processes import Server

OpenPage = Callable[..., Page]


FRAMES_PER_SECOND = 10
"""What a drag shows at least; it shows 30 to 60 where the machine is not busy with other tests."""


FLAT = 3
"""A dimension without activity in `with_passive_dimension`."""


def test_a_slider_changes_the_image(latent: Page) -> None:
    before = picture(live(latent))
    slider(latent, "z1").focus()
    for _ in range(3):
        latent.keyboard.press("PageUp")
    after = changed(live(latent), before)
    assert point(latent)[0] > 0
    expect(latent.locator(".dimensions .slider > :last-child").first).not_to_have_text("0.00")
    button(latent, "All zero").click()
    assert changed(live(latent), after) == before


def test_sliders_are_sorted_by_activity(latent: Page, sample: dict[str, Any]) -> None:
    variance = np.var(sample["mu"], axis=0)
    names = [f"z{d + 1}" for d in np.argsort(-variance)]
    assert latent.locator(".dimensions .slider label").all_inner_texts() == names


def test_dimensions_that_do_nothing_are_folded(open_page: OpenPage, sample: dict[str, Any]) -> None:
    page = open_page()
    flat = [[*mu[:FLAT], 0.01 * mu[FLAT], *mu[FLAT + 1 :]] for mu in sample["mu"]]
    page.route("**/model/latents", lambda route: route.fulfill(json=sample | {"mu": flat}))
    page.get_by_role("link", name="Latent space").click()
    ready(page)
    expect(slider(page, f"z{FLAT + 1}")).not_to_be_visible()
    expect(slider(page, "z1")).to_be_visible()
    page.get_by_text("One unused dimension").click()
    expect(slider(page, f"z{FLAT + 1}")).to_be_visible()


def test_frames_of_a_drag(latent: Page) -> None:
    latent.evaluate(
        """() => {
          window.frames = 0;
          const count = (list) => { window.frames += list.getEntriesByName("frame").length; };
          new PerformanceObserver(count).observe({ entryTypes: ["measure"] });
        }"""
    )
    box = slider(latent, "z1").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    latent.mouse.move(box["x"] + box["width"] / 2, middle)
    latent.mouse.down()
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < 2:
        latent.mouse.move(box["x"] + box["width"] * (0.5 + 0.4 * math.sin(3 * passed)), middle)
    rate = latent.evaluate("window.frames") / passed
    latent.mouse.up()
    print(f"{rate:.0f} frames/s while a slider is dragged")
    assert rate >= FRAMES_PER_SECOND


def test_random_points_differ(latent: Page) -> None:
    button(latent, "Random").first.click()
    first = moved(latent, [0.0] * 10)
    button(latent, "Random").first.click()
    moved(latent, first)


def test_a_link_shows_the_same(latent: Page, open_page: OpenPage) -> None:
    button(latent, "Random").first.click()
    z = moved(latent, [0.0] * 10)
    sliders_point(latent, "From").click()
    button(latent, "All zero").click()
    sliders_point(latent, "To").click()
    slider(latent, "z7").fill("-1.25")
    slider(latent, "steps").fill("9")
    latent.get_by_label("Curved").check()
    latent.get_by_label("Seed").fill("42")
    slider(latent, "temperature").fill("0.5")
    latent.locator(".legend button").nth(3).click()
    url = hash_has(latent, "class=3")  # the last change
    assert "seed=42" in url

    other = ready(open_page(url[url.index("#") :]))
    assert point(other) == point(latent) == [0.0] * 6 + [-1.25, 0.0, 0.0, 0.0]
    assert f"from={'_'.join(f'{value:g}' for value in z)}" in url
    expect(slider(other, "steps")).to_have_value("9")
    expect(other.get_by_label("Curved")).to_be_checked()
    expect(other.get_by_label("Seed")).to_have_value("42")
    expect(slider(other, "temperature")).to_have_value("0.5")
    expect(other.locator(".legend button").nth(3)).to_have_attribute("aria-pressed", "true")
    for selector in (".live canvas", ".tile canvas", ".walk [aria-label^='From'] canvas"):
        ours, theirs = other.locator(selector).first, latent.locator(selector).first
        expect(ours).to_be_visible()
        theirs.evaluate(SETTLED)
        ours.evaluate(SETTLED)
        assert picture(ours) == picture(theirs), selector


def test_a_link_that_makes_no_sense_is_as_none(open_page: OpenPage) -> None:
    page = ready(open_page("#latent?z=1_2&from=a&steps=1e9&seed=-1&temperature=x&n=0&class=-2"))
    assert point(page) == [0.0] * 10
    expect(slider(page, "steps")).to_have_value("24")
    expect(page.get_by_label("Seed")).to_have_value("1")


def sheet(page: Page) -> list[str]:
    """The pixels of all samples."""
    found: list[str] = page.locator(".tiles canvas").evaluate_all(
        "all => all.map(canvas => canvas.toDataURL())"
    )
    return found


def test_samples_repeat_with_their_seed(latent: Page) -> None:
    tile = latent.locator(".tiles canvas").first
    first = sheet(latent)
    assert len(first) == len(set(first)) == 12
    before = picture(tile)
    latent.get_by_label("Seed").fill("7")
    seventh = changed(tile, before)
    slider(latent, "temperature").fill("0.3")
    cold = changed(tile, seventh)
    slider(latent, "temperature").fill("1")
    assert changed(tile, cold) == seventh
    latent.get_by_label("Seed").fill("1")
    changed(tile, seventh)
    tile.evaluate(SETTLED)
    assert sheet(latent) == first


def test_a_sample_goes_into_the_sliders(latent: Page, server: Server) -> None:
    latent.get_by_role("button", name="New image 2").press("Enter")
    z = moved(latent, [0.0] * 10)
    expect(latent.locator(".latent-status")).to_have_text("New image 2: in the sliders.")
    with server.client() as http:
        images = http.get("/sample", params={"n": 12, "seed": 1, "scale": 1}).content
        pixels = np.asarray(Image.open(BytesIO(images)))
        body = pixels[:28, 28:56].tobytes()  # the second of the sheet
        raw = {"Content-Type": "application/octet-stream"}
        mu = http.post("/encode", content=body, headers=raw).raise_for_status().json()["mu"][0]
    assert np.allclose(z, mu, atol=0.006)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_nothing(
    open_page: OpenPage,
    check_accessibility: Callable[[Page], None],
    *,
    width: int,
    dark: bool,
) -> None:
    page = ready(open_page("#latent", width=width, dark=dark))
    page.locator("summary").evaluate_all("all => all.forEach(one => one.click())")
    page.get_by_role("application").focus()
    page.keyboard.press("ArrowUp")
    expect(page.locator(".side canvas")).to_be_visible()
    check_accessibility(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_commands_say_what_was_done(latent: Page, server: Server) -> None:
    slider(latent, "z2").fill("1.5")
    latent.locator(".dimensions summary").last.click()
    curl, python = latent.locator(".dimensions pre").all_inner_texts()
    z = "0,1.5,0,0,0,0,0,0,0,0"
    assert f'{{"z":[[{z}]]}}' in curl
    assert f"{server.url}/decode?scale=9" in curl
    assert f"client.decode(np.array([[{z.replace(',', ', ')}]]))[0]" in python
    found: dict[str, Any] = {}
    exec(python, found)  # noqa: S102 - the line that we offer
    with server.client() as http:
        images = http.post("/decode", json=json.loads(curl.split("'")[1])).json()["images"]
    assert np.allclose(found["image"], images[0], atol=1e-6)
