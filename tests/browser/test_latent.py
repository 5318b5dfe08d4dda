"""The view of the latent space, as people use it: by mouse, by keyboard, by link."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Request, Response, Route, expect

from tests.browser.opening import new_page
from tests.processes import Server, running

OpenPage = Callable[..., Page]

FRAMES_PER_SECOND = 10
"""What a drag shows at least; it shows 30 to 60 where the machine is not busy with other tests."""

FLAT = 3
"""A dimension without activity in `with_passive_dimension`."""


@pytest.fixture
def latent(open_page: OpenPage) -> Page:
    """The view, once its sample of posterior means is there."""
    return ready(open_page("#latent"))


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


@pytest.fixture(scope="module")
def sample(server: Server) -> dict[str, Any]:
    """The posterior means that the bundle keeps."""
    found: dict[str, Any] = httpx.get(f"{server.url}/model/latents").raise_for_status().json()
    return found


def ready(page: Page) -> Page:
    expect(page.locator(".legend button").first).to_be_visible()
    expect(live(page)).to_be_visible()
    expect(page.locator(".tiles canvas").first).to_be_visible()
    return page


def live(page: Page) -> Locator:
    """What the network draws at the sliders' point."""
    return page.locator(".live canvas")


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def sliders_point(page: Page, end: str) -> Locator:
    """The button that has a walk's end take the sliders' point."""
    group = page.get_by_role("group", name=end, exact=True)
    return group.get_by_role("button", name="The sliders’ point")


def slider(page: Page, name: str) -> Locator:
    return page.locator(f'input[data-name="{name}"]')


def picture(canvas: Locator) -> str:
    """The pixels of a canvas."""
    found: str = canvas.evaluate("canvas => canvas.toDataURL()")
    return found


def changed(canvas: Locator, before: str) -> str:
    """The pixels of a canvas once they are others."""
    canvas.evaluate(
        """async (canvas, before) => {
          const end = performance.now() + 10_000;
          while (canvas.toDataURL() === before) {
            if (performance.now() > end) throw new Error("the canvas stays as it is");
            await new Promise(requestAnimationFrame);
          }
        }""",
        before,
    )
    return picture(canvas)


def point(page: Page, size: int = 10) -> list[float]:
    """Where the sliders are. Read at once, as they move together."""
    values = page.locator(".dimensions input").evaluate_all(
        "all => Object.fromEntries(all.map(one => [one.dataset.name, Number(one.value)]))"
    )
    return [values[f"z{d + 1}"] for d in range(size)]


def hash_has(page: Page, text: str) -> str:
    """The address, once its hash has `text`."""
    page.wait_for_url(re.compile(re.escape(text)))
    return page.url


def moved(page: Page, before: list[float]) -> list[float]:
    """Where the sliders are once they are elsewhere."""
    end = time.monotonic() + 10
    while (now := point(page, len(before))) == before:
        assert time.monotonic() < end, "the sliders stay where they are"
    return now


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


SETTLED = """async (canvas) => {
  let last = "";
  const end = performance.now() + 10_000;
  for (let same = 0; same < 15; same++) {
    if (performance.now() > end) throw new Error("the canvas does not settle");
    await new Promise(requestAnimationFrame);
    if (canvas.toDataURL() !== last) [last, same] = [canvas.toDataURL(), 0];
  }
}"""
"""Waits until a canvas has been the same for a quarter of a second."""


def test_a_link_that_makes_no_sense_is_as_none(open_page: OpenPage) -> None:
    page = ready(open_page("#latent?z=1_2&from=a&steps=1e9&seed=-1&temperature=x&n=0&class=-2"))
    assert point(page) == [0.0] * 10
    expect(slider(page, "steps")).to_have_value("24")
    expect(page.get_by_label("Seed")).to_have_value("1")


def test_a_walk_plays_and_pauses(latent: Page) -> None:
    expect(button(latent, "Pause")).to_be_visible()
    position = slider(latent, "position")
    expect(position).not_to_have_value("0")
    button(latent, "Pause").click()
    here = position.input_value()
    latent.evaluate("new Promise((resolve) => setTimeout(resolve, 300))")
    assert position.input_value() == here
    position.fill("23")
    between, to = (
        latent.locator(f".walk canvas[aria-label^='{name}']") for name in ("Step 24", "To")
    )
    between.evaluate(SETTLED)
    assert picture(between) == picture(to)
    button(latent, "Into the sliders").click()
    moved(latent, [0.0] * 10)
    expect(latent.locator(".latent-status")).to_have_text("Step 24 of 24: in the sliders.")


def test_a_walk_opens_the_same_for_everyone(latent: Page, open_page: OpenPage) -> None:
    other = ready(open_page("#latent", reduced_motion=True))
    ends = ".walk canvas[aria-label='From'], .walk canvas[aria-label='To']"
    for page in (latent, other):
        expect(page.locator(ends)).to_have_count(2)
    ours, theirs = (
        [picture(canvas) for canvas in page.locator(ends).all()] for page in (latent, other)
    )
    assert ours == theirs
    assert len(set(ours)) == 2
    assert "from=" not in latent.url


def test_a_walk_is_not_announced_at_each_step(latent: Page) -> None:
    """A screen reader would otherwise speak all the time."""
    announced = latent.evaluate(
        """async () => {
          let count = 0;
          const live = "[aria-live], [role=status], [role=alert], output";
          const observer = new MutationObserver((changes) => {
            for (const { target } of changes) {
              count += (target.closest ? target : target.parentElement).closest(live) !== null;
            }
          });
          const options = { subtree: true, childList: true, characterData: true };
          observer.observe(document.body, options);
          const position = document.querySelector('input[data-name="position"]');
          for (let steps = 0; steps < 12; steps++) {
            const before = position.value;
            while (position.value === before) await new Promise(requestAnimationFrame);
          }
          return count;
        }"""
    )
    assert announced == 0


def test_a_walk_steps_where_motion_is_not_wanted(open_page: OpenPage) -> None:
    page = ready(open_page("#latent", reduced_motion=True))
    expect(button(page, "Next step")).to_be_enabled()
    expect(button(page, "Play")).to_have_count(0)
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 300))")
    expect(slider(page, "position")).to_have_value("0")
    button(page, "Next step").click()
    expect(slider(page, "position")).to_have_value("1")


def saved(page: Page, name: str) -> tuple[str, Image.Image]:
    """The name and the content of the image that a button saves."""
    with page.expect_download() as download:
        button(page, name).click()
    path = download.value.path()
    return download.value.suggested_filename, Image.open(BytesIO(Path(path).read_bytes()))


def test_a_walk_is_saved(latent: Page) -> None:
    slider(latent, "steps").fill("8")
    name, gif = saved(latent, "Save as GIF")
    assert (name, gif.format, gif.size) == ("walk.gif", "GIF", (252, 252))
    assert getattr(gif, "n_frames", 1) == 14, "there and back, each end once"
    name, sheet = saved(latent, "Save as one picture")
    assert (name, sheet.format) == ("walk.png", "PNG")
    assert sheet.width * sheet.height >= 8 * 252 * 252


def test_what_is_refused_is_said_in_the_words_of_the_service(latent: Page, watched: Any) -> None:
    watched.allowed.append("413")
    problem = {"title": "Content Too Large", "detail": "24 images > maximum 9", "status": 413}
    latent.route(
        "**/decode?scale=*",
        lambda route: route.fulfill(
            status=413, content_type="application/problem+json", body=json.dumps(problem)
        ),
    )
    button(latent, "Save as GIF").click()
    expect(latent.get_by_role("alert")).to_have_text("Content Too Large 24 images > maximum 9")


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
    latent.get_by_role("button", name="New image 2: into the sliders").press("Enter")
    z = moved(latent, [0.0] * 10)
    expect(latent.locator(".latent-status")).to_have_text("New image 2, encoded: in the sliders.")
    with server.client() as http:
        images = http.get("/sample", params={"n": 12, "seed": 1, "scale": 1}).content
        pixels = np.asarray(Image.open(BytesIO(images)))
        body = pixels[:28, 28:56].tobytes()  # the second of the sheet
        raw = {"Content-Type": "application/octet-stream"}
        mu = http.post("/encode", content=body, headers=raw).raise_for_status().json()["mu"][0]
    assert np.allclose(z, mu, atol=0.006)


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
    button(page, "Two random points").click()
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


def test_the_python_line_of_a_walk(latent: Page) -> None:
    button(latent, "Two random points").click()
    slider(latent, "steps").fill("5")
    for route in ("Straight", "Curved"):
        latent.get_by_label(route).check()
        region = latent.get_by_role("region", name="A walk between two points")
        if route == "Straight":
            region.locator("summary").click()
        found: dict[str, Any] = {}
        exec(region.locator("pre").last.inner_text(), found)  # noqa: S102 - the line that we offer
        assert found["images"].shape == (5, 28, 28)
        z = found["z"]
        assert "_".join(f"{value:g}" for value in z[0]) in hash_has(latent, "from=")
        assert "_".join(f"{value:g}" for value in z[-1]) in latent.url
        lengths = np.linalg.norm(z, axis=1)
        is_even = np.allclose(lengths, np.linspace(lengths[0], lengths[-1], 5), atol=0.02)
        assert is_even == (route == "Curved")
