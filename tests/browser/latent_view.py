"""Parts of the view of the latent space, and what happens to them."""

from __future__ import annotations

import re
import time

from playwright.sync_api import Locator, Page, expect


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
