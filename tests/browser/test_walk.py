"""A walk between two points of the latent space."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.latent_view import SETTLED, button, hash_has, moved, picture, ready, slider

OpenPage = Callable[..., Page]


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


def test_the_python_line_of_a_walk(latent: Page) -> None:
    for end in ("From", "To"):
        group = latent.get_by_role("group", name=end, exact=True)
        group.get_by_role("button", name="Random").click()
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
