"""The page of bundles that are unlike the included ones: wide, colour, without calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from playwright.sync_api import Page, Response, expect

from model.bundle.bundle import Bundle
from model.bundle.latent_sample import LatentSample
from model.config import VAEConfig
from tests.processes import Server, running
from tests.unit.samples import tiny_bundle

WIDE = 64
"""Latent dimensions."""

MEANS = 400

UNCALIBRATED = {"/model/calibration"}
"""What the service answers with 404 for a bundle without calibration."""

HEADINGS = {
    "look": "Is this image unusual, and why?",
    "latent": "Walk through the latent space",
    "watch": "What the service is doing",
    "about": "What is here",
}


def wide() -> Bundle:
    """With posterior means, which have no labels; only the first dimension has much effect."""
    spread = np.linspace(1, 0.2, WIDE, dtype=np.float32)
    mu = np.random.default_rng(0).standard_normal((MEANS, WIDE), np.float32) * spread
    config = VAEConfig(hidden_sizes=(32,), latent_size=WIDE)
    return tiny_bundle(config=config, latents=LatentSample(mu=mu, data_set="noise"))


def colour() -> Bundle:
    """Without anything but a network."""
    return tiny_bundle(config=VAEConfig(image_shape=(3, 64, 64), hidden_sizes=(32,), latent_size=8))


BUNDLES: dict[str, Callable[[], Bundle]] = {"wide": wide, "colour": colour}


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A service of the bundle that a test names."""
    directory = tmp_path_factory.mktemp("bundle")
    BUNDLES[request.param]().save(directory, "# A bundle of a test\n")
    with running("--bundle", str(directory), "--threads", "1") as server:
        yield server


@pytest.fixture
def refused(watched: Any) -> set[str]:
    """The paths that were answered by an error. Browsers write a line for each."""
    watched.allowed.append("404")
    return set()


@pytest.fixture
def open_view(open_page: Callable[..., Page], refused: set[str]) -> Callable[[str], Page]:
    """A view, opened directly."""

    def note(response: Response) -> None:
        if response.status >= 400:
            refused.add(urlsplit(response.url).path)

    def open_one(view: str) -> Page:
        page = open_page()
        page.on("response", note)
        page.goto(f"{page.url.partition('#')[0]}#{view}")
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_have_text(HEADINGS[view])
        page.wait_for_load_state("networkidle" if view != "watch" else "load")
        return page

    return open_one


@pytest.mark.parametrize("view", HEADINGS)
@pytest.mark.parametrize(
    ("server", "missing"),
    [("wide", UNCALIBRATED), ("colour", UNCALIBRATED | {"/model/latents"})],
    indirect=["server"],
)
def test_each_view_opens(
    open_view: Callable[[str], Page], refused: set[str], view: str, missing: set[str]
) -> None:
    """Nothing fails but what the bundle does not have."""
    page = open_view(view)
    expect(page.locator("main .card").first).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert refused <= missing


@pytest.mark.parametrize("server", ["wide"], indirect=True)
def test_the_latent_space_of_many_dimensions(open_view: Callable[[str], Page]) -> None:
    page = open_view("latent")
    sliders = page.locator(".dimensions input")
    expect(sliders).to_have_count(WIDE)
    expect(sliders.first).to_have_attribute("data-name", "z1")
    change_the_image(page, f"z{WIDE}")
    plot = page.get_by_role("application", name=f"Map of the latent space with {MEANS} images")
    plot.focus()
    plot.press("ArrowRight")
    expect(page.locator(".side p")).to_contain_text("An image at (")
    expect(page.locator(".legend")).to_have_count(0)
    plot.press("Enter")
    expect(page.locator(".latent-status")).to_contain_text("in the sliders")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("server", ["colour"], indirect=True)
def test_the_latent_space_in_colour(open_view: Callable[[str], Page]) -> None:
    page = open_view("latent")
    expect(page.get_by_role("application")).to_have_count(0)
    expect(page.get_by_text("posterior means")).to_be_visible()
    change_the_image(page, "z8")
    expect(page.locator(".walk .stack > .picture canvas")).to_have_count(3)
    expect(page.locator(".tiles canvas")).to_have_count(12)


def change_the_image(page: Page, name: str) -> None:
    """Move a slider, and wait for another image."""
    live = page.locator(".live canvas")
    expect(live).to_be_visible()
    before = live.evaluate("canvas => canvas.toDataURL()")
    page.locator(f'input[data-name="{name}"]').fill("3")
    page.wait_for_function(
        "before => document.querySelector('.live canvas').toDataURL() !== before", arg=before
    )


@pytest.mark.parametrize("server", ["colour"], indirect=True)
def test_look_without_a_calibration(open_view: Callable[[str], Page]) -> None:
    """There is no verdict, and no pad, as nobody draws in colour; words say what to do instead."""
    page = open_view("look")
    verdict = page.locator(".verdict")
    expect(verdict).to_contain_text("No verdict")
    expect(verdict).to_contain_text("not calibrated")
    expect(page.get_by_label("Drawing pad")).to_have_count(0)
    expect(page.get_by_text("Only small grey images can be drawn by hand.")).to_be_visible()
    expect(page.get_by_role("button", name="Choose images")).to_be_visible()
    expect(page.get_by_label("False alarms")).to_have_count(0)
