"""The view of what is here: the network, its card with the plots, the settings in force."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.browser.conftest import Watched
from tests.browser.fakes import BUNDLE, Fakes, page_with_fakes
from tests.processes import Server

Open = Callable[..., tuple[Page, Fakes]]


@pytest.fixture
def open_about(browser: Browser, server: Server, watched: Watched) -> Iterator[Open]:
    """`open_about("?section=settings", card="# A card")`: the view, over fakes."""
    pages: list[Page] = []

    def open_one(query: str = "", **given: Any) -> tuple[Page, Fakes]:
        options = {name: given.pop(name) for name in ("width", "dark") if name in given}
        page, fakes = page_with_fakes(browser, watched, **options)
        pages.append(page)
        for name, value in given.items():
            setattr(fakes, name, value)
        page.goto(f"{server.url}/#about{query}")
        expect(page.get_by_role("heading", name="The network")).to_be_visible()
        return page, fakes

    yield open_one
    for page in pages:
        page.context.close()


def fact(page: Page, name: str) -> str:
    term = page.locator("dt").filter(has_text=re.compile(f"^{name}$"))
    return term.locator("xpath=following-sibling::dd[1]").inner_text()


def card(page: Page) -> Locator:
    return page.locator("section").filter(has=page.locator("h2#section"))


def test_the_network_in_words(open_about: Open, server: Server) -> None:
    page, _ = open_about()
    with server.client() as client:
        model = client.get("/model").json()
    assert fact(page, "Name") == model["id"]
    assert fact(page, "Version") == model["version"]
    assert fact(page, "Architecture") == "fully connected, hidden sizes 256, 64"
    assert fact(page, "Trained on") == "mnist"
    assert fact(page, "Images") == "28 × 28 pixels, grey"
    assert fact(page, "Scores").split("\n")[0] == f"{model['scores'][0]} default"
    assert len(fact(page, "Scores").split("\n")) == len(model["scores"])
    assert "10,000 clean images" in fact(page, "Calibration")
    assert "The smallest p-value is 1 in 10,000." in fact(page, "Calibration")
    assert fact(page, "Runs on").startswith("cpu, float32")


def test_other_architectures_have_words_too(open_about: Open, server: Server) -> None:
    with server.client() as client:
        model = client.get("/model").json()
    model["architecture"] |= {
        "architecture": "conv",
        "hidden_sizes": [32, 64, 128],
        "detector": {"grid": [14, 14]},
    }
    model |= {"calibration": None, "image_shape": [3, 64, 96]}
    page, fakes = open_about()
    fakes.answer("/model", lambda route: route.fulfill(json=model))
    page.reload()
    expect(page.get_by_text("convolutional, hidden sizes 32, 64, 128")).to_be_visible()
    assert "backbone" in fact(page, "Detector")
    assert fact(page, "Images") == "96 × 64 pixels, colour"
    assert "no p-values" in fact(page, "Calibration")


def test_the_card_is_shown_with_its_plots(open_about: Open) -> None:
    page, fakes = open_about()
    panel = card(page)
    expect(panel.get_by_role("heading", level=3, name="mnist")).to_be_visible()
    plots = panel.get_by_role("img")
    expect(plots).to_have_count(len(list((BUNDLE / "plots").iterdir())))
    assert sum("/model/plots/" in asked for asked in fakes.asked) == plots.count()
    caption = "Images decoded from z ~ N(0, I)."
    expect(panel.get_by_role("img", name=caption)).to_be_visible()
    assert panel.inner_text().count(caption) == 1, "the caption is not there twice"
    for plot in plots.all():
        values = plot.evaluate(
            "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
        )
        assert values > 2, "something is painted"
    table = panel.get_by_role("table").first
    expect(table.get_by_role("columnheader").first).to_have_text("images")
    expect(table.get_by_role("cell", name="0.01152")).to_be_visible()
    expect(panel.get_by_role("listitem").filter(has_text="Head:").locator("code")).to_have_text(
        "log_variance"
    )
    nested = panel.get_by_role("listitem").filter(has_text="files sha256").get_by_role("listitem")
    assert nested.count() == 2


def test_long_tables_of_the_card_are_folded(open_about: Open) -> None:
    page, _ = open_about()
    panel = card(page)
    row = panel.get_by_role("cell", name="baseline: mean intensity").first
    expect(panel.locator(".model-card details")).to_have_count(4)
    expect(row).to_be_hidden()
    panel.get_by_text("fashion-mnist, 10,000 images").click()
    expect(row).to_be_visible()


def test_headings_go_down_one_level_at_a_time(open_about: Open) -> None:
    page, _ = open_about()
    expect(card(page).get_by_role("heading", name="Limits")).to_be_visible()
    levels = page.eval_on_selector_all(
        "h1, h2, h3, h4, h5, h6", "all => all.map(each => Number(each.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels)), levels


HOSTILE = """---
license: none
---
# <img src=x onerror="window.broken = 1">

<script>window.broken = 1</script>

[words](javascript:window.broken=1) and [a page](https://example.org/x) and **bold `code`**

![far](https://example.org/far.png)

![up](../../config.json)

![plots](plots/../../secret.png)

> **Note:** a *quoted* line
> goes on

1. one
   goes on
2. two
   - inner

| a | b |
| --- | ---: |
| <b onclick="window.broken = 1">x</b> | 1 \\| 2 |

```
<i>code</i>
```
"""


def test_a_card_is_text_and_nothing_else(open_about: Open) -> None:
    page, fakes = open_about(card=HOSTILE)
    panel = card(page)
    expect(panel.locator("h3")).to_have_text('<img src=x onerror="window.broken = 1">')
    expect(panel.get_by_text("<script>window.broken = 1</script>")).to_be_visible()
    assert "license" not in panel.inner_text()
    links = panel.get_by_role("link")
    assert [link.get_attribute("href") for link in links.all()] == ["https://example.org/x"]
    expect(panel.locator("strong code")).to_have_text("code")
    for words in ("far", "up", "plots"):
        expect(panel.get_by_text(words, exact=True)).to_be_visible()
    expect(panel.locator("canvas, img, script, b, i")).to_have_count(0)
    assert not any("plots" in asked or "png" in asked for asked in fakes.asked)
    expect(panel.locator("blockquote")).to_have_text("Note: a quoted line goes on")
    expect(panel.locator("blockquote em")).to_have_text("quoted")
    expect(panel.get_by_role("listitem").first).to_have_text("one goes on")
    expect(panel.locator("li li")).to_have_text("inner")
    expect(panel.get_by_role("cell").last).to_have_text("1 | 2")
    expect(panel.locator("pre").first).to_have_text("<i>code</i>")
    assert page.evaluate("window.broken") is None


def test_settings_that_differ_come_first_and_are_marked(open_about: Open) -> None:
    page, _ = open_about("?section=settings")
    panel = card(page)
    rows = panel.get_by_role("row")
    expect(rows).to_have_count(8)
    expect(rows.nth(1)).to_contain_text("VAE_PORT")
    expect(rows.nth(1)).to_contain_text("● changed")
    expect(rows.nth(2)).to_contain_text("VAE_ALPHA")
    assert "changed" not in rows.nth(2).inner_text()
    expect(rows.filter(has_text="VAE_API_KEYS_FILE").get_by_role("cell").first).to_have_text(
        "not set"
    )
    expect(panel).to_contain_text("1 of 7 settings differ")
    panel.get_by_label("only those").check()
    expect(rows).to_have_count(2)


def test_sections_are_reached_by_keyboard_and_have_links(open_about: Open) -> None:
    page, _ = open_about()
    settings = page.get_by_role("button", name="Settings")
    page.get_by_role("button", name="Model card").focus()
    page.keyboard.press("Tab")
    expect(settings).to_be_focused()
    page.keyboard.press("Enter")
    expect(settings).to_have_attribute("aria-pressed", "true")
    expect(page).to_have_url(re.compile("#about\\?section=settings$"))
    page.keyboard.press("Tab")
    expect(page.get_by_label("only those")).to_be_focused()
    page.reload()
    expect(settings).to_have_attribute("aria-pressed", "true")
    page.evaluate("location.hash = 'about'")
    expect(card(page).get_by_role("heading", name="Limits")).to_be_visible()


def test_a_key_that_may_not_see_the_settings_sees_the_rest(
    open_about: Open, watched: Watched
) -> None:
    watched.allowed = ["403"]
    page, fakes = open_about()
    fakes.refuse("/settings", 403, "the key alice lacks the scope metrics")
    page.get_by_role("button", name="Settings").click()
    expect(card(page).get_by_role("alert")).to_contain_text("lacks the scope metrics")
    page.get_by_role("button", name="Model card").click()
    expect(card(page).get_by_role("heading", name="Limits")).to_be_visible()


def test_a_reload_says_what_is_in_memory_now(open_about: Open, server: Server) -> None:
    with server.client() as client:
        model = client.get("/model").json()
    page, fakes = open_about()
    button = page.get_by_role("button", name="Reload the bundle from disk")
    same = {"id": model["id"], "version": model["version"]}
    fakes.answer("/model/reload", lambda route: route.fulfill(json=same))
    button.click()
    expect(page.get_by_role("status")).to_have_text("mnist was reloaded: the same version.")
    newer = {"id": "mnist", "version": "0123456789abcdef"}
    fakes.answer("/model/reload", lambda route: route.fulfill(json=newer))
    fakes.answer("/model", lambda route: route.fulfill(json=model | newer))
    button.click()
    expect(page.get_by_role("status")).to_have_text(
        "mnist, version 0123456789abcdef, is now in memory."
    )
    expect(page.locator("dd").filter(has_text=newer["version"])).to_be_visible()


def test_a_reload_that_is_refused_says_why(open_about: Open, watched: Watched) -> None:
    watched.allowed = ["409"]
    page, fakes = open_about()
    fakes.refuse("/model/reload", 409, "config.json is not a bundle's configuration")
    page.get_by_role("button", name="Reload the bundle from disk").click()
    expect(page.get_by_role("alert")).to_contain_text("config.json is not a bundle's configuration")


def test_a_key_for_metrics_alone_sees_the_settings(
    browser: Browser, server: Server, watched: Watched
) -> None:
    watched.allowed = ["403"]
    page, fakes = page_with_fakes(browser, watched)
    fakes.refuse("/model", 403, "the key alice lacks the scope infer")
    page.goto(f"{server.url}/#about")
    expect(page.get_by_role("heading", name="Settings")).to_be_visible()
    expect(page.get_by_text("what alpha does")).to_be_visible()
    expect(page.get_by_role("button", name="Model card")).to_have_count(0)
    page.context.close()


def test_plots_are_drawn_as_they_are(open_about: Open) -> None:
    page, _ = open_about()
    figures = card(page).locator("figure")
    expect(figures.locator("canvas").first).to_be_visible()
    for figure in figures.all():
        drawn, own, caption = figure.evaluate(
            """figure => {
                const canvas = figure.querySelector("canvas");
                const { width, height, bottom } = canvas.getBoundingClientRect();
                const caption = figure.querySelector("figcaption").getBoundingClientRect();
                return [width / height, canvas.width / canvas.height, caption.top - bottom];
            }"""
        )
        assert drawn == pytest.approx(own, rel=0.02)
        assert 0 <= caption < 20, "the caption is below the plot, not behind it"
        cursor = figure.evaluate("figure => getComputedStyle(figure).cursor")
        assert cursor == "auto"
        expect(figure.locator("figcaption")).to_be_visible()


def test_tables_of_the_card_fit_a_phone(open_about: Open) -> None:
    page, _ = open_about(width=390)
    panel = card(page)
    panel.get_by_text("fashion-mnist, 10,000 images").click()
    cell = panel.get_by_role("row").filter(has_text="baseline: mean intensity").first
    expect(cell).to_be_visible()
    numbers = cell.get_by_role("cell").nth(1).bounding_box()
    assert numbers is not None
    assert numbers["x"] + numbers["width"] < 390, "the first number is seen without scrolling"


def test_with_a_key_there_is_no_link_that_would_ask_for_it(
    browser: Browser, server: Server, watched: Watched
) -> None:
    watched.allowed = ["401"]
    page, fakes = page_with_fakes(browser, watched)

    def with_key(route: Route) -> None:
        if "authorization" in route.request.headers:
            route.continue_()
        else:
            route.fulfill(status=401, json={"title": "No key.", "detail": "a key is needed"})

    fakes.answer("/model", with_key)
    page.goto(f"{server.url}/#about")
    page.get_by_label("This service asks for an API key").fill("key-of-sixteen-characters")
    page.keyboard.press("Enter")
    links = page.get_by_role("region", name="The network").get_by_role("link")
    expect(links).to_have_text(["/docs", "/openapi.json"])
    page.context.close()


def test_commands_and_links(open_about: Open, server: Server) -> None:
    page, _ = open_about()
    network = page.get_by_role("region", name="The network")
    page.get_by_text("As curl and Python").click()
    curl = page.get_by_role("group", name="curl line")
    expect(curl).to_contain_text(f"curl '{server.url}/settings'")
    expect(curl).to_contain_text(f"curl -X POST '{server.url}/model/reload'")
    expect(page.get_by_role("group", name="Python line")).to_contain_text("client.model()")
    hrefs = [link.get_attribute("href") for link in network.get_by_role("link").all()]
    assert hrefs == [f"{server.url}/{path}" for path in ("docs", "openapi.json", "metrics")]


@pytest.mark.parametrize("section", ["card", "settings"])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1440])
def test_it_is_for_everybody(
    open_about: Open,
    check_accessibility: Callable[[Page], None],
    section: str,
    dark: bool,
    width: int,
) -> None:
    page, _ = open_about(f"?section={section}", width=width, dark=dark)
    expect(card(page).get_by_role("table").first).to_be_visible()
    for summary in page.locator("summary").all():
        summary.click()
    check_accessibility(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width
