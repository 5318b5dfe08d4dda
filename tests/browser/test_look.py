"""The view of one image: what a person draws, drops, photographs or chooses gets a verdict."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from tests.api.helpers import image_file
from tests.browser.strokes import SCRIBBLE, SEVEN, draw
from tests.processes import Server, metric

Digits = NDArray[np.uint8]

FEW_PIXELS = 50


def verdict(page: Page) -> Locator:
    return page.locator(".verdict")


def expect_verdict(page: Page, state: str, name: str) -> str:
    """The whole verdict, once it is of the image with this name."""
    expect(verdict(page)).to_contain_text(name)
    expect(verdict(page)).to_have_attribute("data-state", state)
    return verdict(page).inner_text()


def shown_score(page: Page) -> float:
    found = re.search(r"score (-?[\d.]+)", verdict(page).inner_text())
    assert found is not None
    return float(found[1])


def pixels_of(canvas: Locator) -> NDArray[np.uint8]:
    """What a canvas shows, (H, W, 4)."""
    found = canvas.evaluate(
        """canvas => {
          const { width, height } = canvas;
          const copy = new OffscreenCanvas(width, height);
          const context = copy.getContext("2d");
          context.drawImage(canvas, 0, 0);
          return [height, width, Array.from(context.getImageData(0, 0, width, height).data)];
        }"""
    )
    height, width, data = found
    return np.array(data, np.uint8).reshape(height, width, 4)


def eventually(page: Page, holds: Callable[[], bool]) -> None:
    """Wait until something holds, for what `expect` cannot look at."""
    for _ in range(50):
        if holds():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it did not come about within 5 s")


def files(digits: Digits, n: int) -> list[Any]:
    """Digits as files to choose; the last one is noise."""
    noise = np.random.default_rng(0).integers(0, 256, (1, 28, 28)).astype(np.uint8)
    images = [*digits[: n - 1], noise]
    return [
        {"name": f"image-{i}.png", "mimeType": "image/png", "buffer": image_file(image)}
        for i, image in enumerate(images)
    ]


def choose(page: Page, chosen: list[Any]) -> None:
    page.get_by_label("Choose images").locator("visible=false").set_input_files(chosen)


def output_of(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)  # noqa: S603 - the page's own lines
    return done.stdout


def test_it_opens_with_an_anomaly_that_is_explained(page: Page) -> None:
    text = expect_verdict(page, "anomaly", "the first, with a scratch")
    assert "▲ Anomaly" in text
    assert re.search(r"About 1 in [\d,]+ clean images scores at least this high", text)
    for name in ("input", "reconstruction", "marked"):
        expect(page.locator(f".{name} canvas")).to_be_visible()
    shown = pixels_of(page.locator(".input canvas"))
    marked = pixels_of(page.locator(".marked canvas"))
    coloured = (marked[..., 0].astype(int) - marked[..., 2]) > 60
    assert coloured.sum() > 5, "the scratch is marked in yellow"
    assert (shown[coloured][:, 0] > 200).mean() > 0.8, "what is marked is the scratch"


def test_a_seven_is_no_anomaly_and_a_scribble_is(page: Page) -> None:
    draw(page, SEVEN)
    expect_verdict(page, "normal", "your drawing")
    expect(verdict(page)).to_contain_text(
        re.compile(r"About \d+ in 100 clean images score at least this high")
    )
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_text("the verdict appears here at once")).to_be_visible()
    draw(page, SCRIBBLE)
    expect_verdict(page, "anomaly", "your drawing")


def test_it_answers_while_a_line_is_drawn(page: Page) -> None:
    """Before the mouse button is released."""
    expect_verdict(page, "anomaly", "scratch")
    box = page.get_by_label("Drawing pad").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 80, box["y"] + 70)
    page.mouse.down()
    page.mouse.move(box["x"] + 190, box["y"] + 70, steps=5)
    expect(verdict(page)).to_contain_text("your drawing")
    first = verdict(page).inner_text()
    page.mouse.move(box["x"] + 120, box["y"] + 220, steps=5)
    expect(verdict(page)).not_to_have_text(first)
    page.mouse.up()
    durations = page.evaluate("performance.getEntriesByName('stroke-to-score').length")
    assert durations >= 2


def test_the_pad_works_by_keyboard(page: Page) -> None:
    expect_verdict(page, "anomaly", "scratch")
    pad = page.get_by_label("Drawing pad")
    pad.focus()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_text("The pen is up.")).to_be_attached()
    page.keyboard.press("Space")
    expect(page.get_by_text("The pen is down.")).to_be_attached()
    for _ in range(8):
        page.keyboard.press("ArrowDown")
    expect(verdict(page)).to_contain_text("your drawing")

    def is_a_vertical_line() -> bool:
        drawn = pixels_of(page.locator(".input canvas"))[..., 0] > 128
        return bool(drawn.any(axis=1).sum() >= 8 and drawn.any(axis=0).sum() <= 4)

    eventually(page, is_a_vertical_line)


def test_the_pad_works_by_touch(open_page: Callable[..., Page]) -> None:
    page = open_page(width=390, height=844, touch=True)
    expect_verdict(page, "anomaly", "scratch")
    pad = page.get_by_label("Drawing pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    assert box is not None
    session = page.context.new_cdp_session(page)
    for kind, x, y in (
        ("touchStart", 0.3, 0.3),
        ("touchMove", 0.5, 0.3),
        ("touchMove", 0.7, 0.3),
        ("touchEnd", 0, 0),
    ):
        points = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}]
        session.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [] if kind == "touchEnd" else points},
        )
    expect(verdict(page)).to_contain_text("your drawing")
    expect(page.locator(".mini")).to_be_visible()


def test_the_score_is_the_services(page: Page, digits: Digits, server: Server) -> None:
    body = image_file(digits[0])
    choose(page, [{"name": "digit.png", "mimeType": "image/png", "buffer": body}])
    expect_verdict(page, "normal", "digit.png")
    with server.client() as client:
        answer = client.post("/anomaly-score", content=body).json()
    assert shown_score(page) == pytest.approx(answer["score"][0], rel=1e-3)


def test_a_dropped_photograph_is_shown_as_the_network_gets_it(page: Page) -> None:
    """Turned and squashed, and said so."""
    expect_verdict(page, "anomaly", "scratch")
    image = Image.new("RGB", (90, 60))
    image.paste((250, 250, 250), (0, 0, 45, 60))
    file = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    image.save(file, "JPEG", quality=95, exif=exif)
    page.evaluate(
        """text => {
          const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], "photo.jpg", { type: "image/jpeg" }));
          for (const name of ["dragover", "drop"]) {
            document.body.dispatchEvent(
              new DragEvent(name, { dataTransfer, bubbles: true, cancelable: true }));
          }
        }""",
        b64encode(file.getvalue()).decode(),
    )
    expect(verdict(page)).to_contain_text("photo.jpg")
    actions = page.locator(".actions")
    expect(actions).to_contain_text("orientation 6")
    expect(actions).to_contain_text("60 × 90 squashed to 28 × 28")
    expect(actions).to_contain_text("grey")

    def is_turned() -> bool:
        shown = pixels_of(page.locator(".input canvas"))[..., 0]
        return bool(shown[:12].min() > 200 and shown[16:].max() < FEW_PIXELS)

    eventually(page, is_turned)  # what was on the left is at the top
    marked = pixels_of(page.locator(".marked canvas"))
    assert (marked[..., :3].max(axis=2) != marked[..., :3].min(axis=2)).sum() > FEW_PIXELS


def test_a_pasted_image_is_looked_at(page: Page, digits: Digits) -> None:
    expect_verdict(page, "anomaly", "scratch")
    page.evaluate(
        """text => {
          const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
          const clipboardData = new DataTransfer();
          clipboardData.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
          document.body.dispatchEvent(
            new ClipboardEvent("paste", { clipboardData, bubbles: true }));
        }""",
        b64encode(image_file(digits[0])).decode(),
    )
    expect_verdict(page, "normal", "pasted.png")


def test_the_camera_takes_a_picture(page: Page) -> None:
    expect_verdict(page, "anomaly", "scratch")
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("video")).to_have_js_property("readyState", 4)
    page.get_by_role("button", name="Take a picture").click()
    expect(verdict(page)).to_contain_text("camera.png")
    expect(page.locator("video")).to_have_count(0)


def test_a_file_that_is_no_image_gets_the_services_words(page: Page, watched: Any) -> None:
    expect_verdict(page, "anomaly", "scratch")
    watched.allowed = ["status of 4"]
    choose(page, [{"name": "notes.png", "mimeType": "image/png", "buffer": b"dear diary"}])
    expect(page.get_by_role("alert")).to_contain_text("not an image file")
    draw(page, SEVEN)
    expect_verdict(page, "normal", "your drawing")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_many_files_are_a_table(page: Page, digits: Digits, server: Server, tmp_path: Path) -> None:
    n = 12
    chosen = files(digits, n)
    choose(page, chosen)
    table = page.locator(".batch")
    expect(table.get_by_role("status")).to_contain_text(f"of {n} ")
    expect(table.locator("tbody tr")).to_have_count(n)
    expect(table.locator("tbody canvas")).to_have_count(n)
    noise = table.locator("tbody tr").first
    expect(noise, "sorted by p, the smallest first").to_contain_text("image-11.png")
    expect(noise).to_contain_text("▲ anomaly")
    table.get_by_role("button", name="file").click()
    expect(table.locator("tbody tr").first).to_contain_text("image-0.png")
    expect(table.locator("th[aria-sort=ascending]")).to_contain_text("file")
    with page.expect_download() as download:
        table.get_by_role("button", name="Save as CSV").click()
    path = tmp_path / "scores.csv"
    download.value.save_as(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with server.client() as client:
        answers = [client.post("/anomaly-score", content=each["buffer"]).json() for each in chosen]
    assert [row["name"] for row in rows] == [each["name"] for each in chosen]
    assert [float(row["p_value"]) for row in rows] == [a["p_value"][0] for a in answers]
    assert [row["is_anomaly"] == "true" for row in rows] == [a["is_anomaly"][0] for a in answers]
    table.get_by_role("button", name="image-3.png").click()
    expect(verdict(page)).to_contain_text("image-3.png")
    table.get_by_role("button", name="Close").click()
    expect(table).to_have_count(0)


def test_the_false_discovery_rate_is_the_services(
    page: Page, digits: Digits, server: Server
) -> None:
    chosen = files(digits, 12)
    choose(page, chosen)
    table = page.locator(".batch")
    expect(table.get_by_role("status")).to_contain_text("anomal")
    page.get_by_label("False alarms").fill("7")  # 10 %
    expect(page.locator(".slider", has_text="10 %")).to_be_visible()
    parts = [("images", (each["name"], each["buffer"], "image/png")) for each in chosen]

    def expected(**query: str) -> int:
        with server.client() as client:
            answer = client.post("/anomaly-score", params={"alpha": "0.1"} | query, files=parts)
        return int(sum(answer.json()["is_anomaly"]))

    expect(table.get_by_role("status")).to_contain_text(f"{expected()} of 12")
    table.get_by_label("false discovery rate").check()
    expect(table.get_by_role("status")).to_contain_text(f"{expected(fdr='bh')} of 12")


def test_alpha_moves_the_verdict(page: Page) -> None:
    page.get_by_role("button", name="upside down").click()
    expect_verdict(page, "normal", "upside down")
    slider = page.get_by_label("False alarms")
    expect(slider).to_have_attribute("aria-valuetext", "1.0 %")
    slider.focus()
    page.keyboard.press("End")
    expect_verdict(page, "anomaly", "upside down")
    expect(page.get_by_text("30 in 100 clean images are called an anomaly")).to_be_visible()
    page.keyboard.press("Home")
    expect_verdict(page, "normal", "upside down")
    expect(page.get_by_text("1 in 2,000 clean images is called an anomaly")).to_be_visible()
    expect(page.get_by_role("img", name="Histogram")).to_have_accessible_name(
        re.compile("threshold is")
    )


def test_another_score_is_chosen_in_the_table(page: Page) -> None:
    expect_verdict(page, "anomaly", "by fused")
    row = page.get_by_role("row", name=re.compile("^kl "))
    expect(row.get_by_role("cell").last).to_have_text("not unusual")
    row.get_by_role("button", name="kl").click()
    expect_verdict(page, "normal", "by kl")
    expect(row.get_by_role("button", name="kl")).to_have_attribute("aria-pressed", "true")


def test_the_strength_of_the_marks(page: Page) -> None:
    expect_verdict(page, "anomaly", "scratch")
    expect(page.locator(".marked canvas")).to_be_visible()
    page.get_by_label("Strength of the marks").fill("0")
    shown = pixels_of(page.locator(".input canvas"))
    eventually(page, lambda: np.array_equal(pixels_of(page.locator(".marked canvas")), shown))


def test_the_link_shows_a_colleague_the_same(page: Page, open_page: Callable[..., Page]) -> None:
    draw(page, SEVEN)
    expect_verdict(page, "normal", "your drawing")
    page.get_by_label("False alarms").fill("6")
    page.get_by_role("row", name=re.compile("^mse ")).get_by_role("button").click()
    expect(verdict(page)).to_contain_text("by mse")
    page.wait_for_url(re.compile(r"#look\?.*alpha=0\.05"))
    page.wait_for_url(re.compile("image="))
    other = open_page(page.url.partition("/")[2].partition("/")[2].partition("/")[2])
    expect(verdict(other)).to_contain_text("the image of the link")
    expect(other.get_by_label("False alarms")).to_have_attribute("aria-valuetext", "5.0 %")
    assert shown_score(other) == shown_score(page)
    shown = pixels_of(page.locator(".input canvas"))
    eventually(other, lambda: np.array_equal(pixels_of(other.locator(".input canvas")), shown))


def test_the_commands_do_the_same(page: Page, tmp_path: Path, server: Server) -> None:
    draw(page, SEVEN)
    expect_verdict(page, "normal", "your drawing")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save what the network gets").click()
    download.value.save_as(tmp_path / "image.png")
    page.locator(".commands summary").first.click()
    lines = {}
    for name in ("curl", "Python"):
        page.get_by_role("button", name=f"Copy the {name} line").click()
        lines[name] = page.evaluate("navigator.clipboard.readText()")
    printed = output_of("bash", "-c", lines["curl"], folder=tmp_path)
    assert json.loads(printed)["score"][0] == pytest.approx(shown_score(page), rel=1e-3)
    printed = output_of(sys.executable, "-c", lines["Python"], folder=tmp_path)
    assert re.search(rf"score=.*{shown_score(page):.3}", printed)


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_everyone_can_use_it(
    open_page: Callable[..., Page],
    check_accessibility: Callable[[Page], None],
    digits: Digits,
    width: int,
    dark: bool,
) -> None:
    page = open_page(width=width, dark=dark)
    choose(page, files(digits, 3))
    expect(page.locator(".batch tbody tr")).to_have_count(3)
    expect(page.locator(".marked canvas")).to_be_visible()
    page.locator(".commands summary").first.click()
    check_accessibility(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_trying_images_out_does_not_count(page: Page, server: Server) -> None:
    """Neither as anomalies nor as p-values, or the page would set off its owner's alerts."""

    def counted() -> list[float]:
        with server.client() as client:
            names = ("vae_scored_images_total", "vae_anomalies_total", "vae_p_value_count")
            return [metric(client, name) for name in names]

    expect_verdict(page, "anomaly", "scratch")
    before = counted()
    page.get_by_role("button", name="noise").click()
    expect(verdict(page)).to_contain_text("noise")
    page.get_by_label("False alarms").fill("2")
    draw(page, SEVEN)
    expect(verdict(page)).to_contain_text("your drawing")
    expect(
        page.get_by_role("row", name=re.compile("^iwae ")).get_by_role("cell").nth(1)
    ).to_have_text(re.compile(r"\d"))
    assert counted() == before


def test_no_verdict_is_shown_of_another_image(page: Page, watched: Any) -> None:
    expect_verdict(page, "anomaly", "scratch")
    watched.allowed = ["status of 400"]
    choose(page, [{"name": "notes.png", "mimeType": "image/png", "buffer": b"dear diary"}])
    expect(page.get_by_role("alert")).to_be_visible()
    expect(verdict(page)).to_have_count(0)
    expect(page.locator(".marked")).to_have_count(0)
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_late_answer_of_another_image_is_not_shown(page: Page) -> None:
    """The scores in the table are those of the image that is shown."""
    expect_verdict(page, "anomaly", "scratch")
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/anomaly-score?*iwae*", hold_the_first)
    page.get_by_role("button", name="noise").click()
    expect(verdict(page)).to_contain_text("noise")
    eventually(page, lambda: len(held) == 1)
    page.get_by_role("button", name="drawn by the network (1)").click()
    expect(verdict(page)).to_contain_text("drawn by the network (1)")
    row = page.get_by_role("row", name=re.compile("^iwae ")).get_by_role("cell").first
    expect(row).to_have_text(re.compile(r"\d"))
    shown = row.inner_text()
    held[0].continue_()
    page.wait_for_timeout(300)
    assert row.inner_text() == shown


def test_the_view_is_as_it_was_left(page: Page) -> None:
    page.get_by_role("button", name="noise").click()
    expect(verdict(page)).to_contain_text("noise")
    page.get_by_label("False alarms").fill("2")
    page.wait_for_url(re.compile(r"example=noise"))
    navigation = page.get_by_role("navigation")
    navigation.get_by_role("link", name="Latent space").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("latent")
    navigation.get_by_role("link", name="Look at an image").click()
    expect(verdict(page)).to_contain_text("noise")
    expect(page.get_by_label("False alarms")).to_have_attribute("aria-valuetext", "0.20 %")


def test_a_link_is_followed_while_the_view_is_open(page: Page) -> None:
    expect_verdict(page, "anomaly", "scratch")
    page.evaluate("location.hash = '#look?example=noise&alpha=0.1'")
    expect(verdict(page)).to_contain_text("noise")
    expect(page.get_by_label("False alarms")).to_have_attribute("aria-valuetext", "10 %")


def test_the_image_of_a_link_needs_no_examples(
    page: Page, open_page: Callable[..., Page], watched: Any
) -> None:
    draw(page, SEVEN)
    expect_verdict(page, "normal", "your drawing")
    page.wait_for_timeout(500)  # until the address has the whole drawing
    link = page.url
    assert "image=" in link
    other = open_page()
    expect(verdict(other)).to_contain_text("scratch")
    watched.allowed = ["ERR_FAILED"]
    other.route("**/sample?*", lambda route: route.abort())
    other.goto("about:blank")
    other.goto(link)
    expect(verdict(other)).to_contain_text("the image of the link")
    other.wait_for_timeout(500)
    assert other.url == link


@pytest.mark.parametrize("query", ["image=AAAA", "image=!", "alpha=abc", "alpha=7", "score=none"])
def test_a_damaged_link_is_said_so_or_left_out(open_page: Callable[..., Page], query: str) -> None:
    page = open_page(f"#look?{query}")
    if "image" in query:
        expect(page.get_by_role("alert")).to_contain_text("The link is damaged")
        page.get_by_role("button", name="noise").click()
    expect(verdict(page)).to_contain_text("by fused")
    expect(page.get_by_label("False alarms")).to_have_attribute("aria-valuetext", "1.0 %")


def test_leaving_the_view_stops_a_batch(page: Page, digits: Digits) -> None:
    expect_verdict(page, "anomaly", "scratch")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    choose(page, files(digits, 200))
    expect(page.locator(".batch tbody tr")).to_have_count(200)
    page.get_by_role("navigation").get_by_role("link", name="What is here").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("What is here")
    page.wait_for_timeout(300)
    before = sum("anomaly-score" in url for url in sent)
    assert before < 150
    page.wait_for_timeout(700)
    assert sum("anomaly-score" in url for url in sent) == before


def test_a_busy_service_is_asked_again(page: Page, watched: Any) -> None:
    expect_verdict(page, "anomaly", "scratch")
    watched.allowed = ["status of 503"]
    refused: list[Route] = []

    def refuse_once(route: Route) -> None:
        if refused:
            route.continue_()
        else:
            refused.append(route)
            route.fulfill(status=503, headers={"Retry-After": "1"}, body="{}")

    page.route("**/anomaly-score?*", refuse_once)
    page.get_by_role("button", name="noise").click()
    expect(verdict(page)).to_contain_text("noise")
    expect(page.get_by_role("alert")).to_have_count(0)
    assert refused


def test_a_file_goes_up_once(page: Page, digits: Digits) -> None:
    """For any alpha and score, what it became is sent."""
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    expect_verdict(page, "anomaly", "scratch")
    choose(page, files(digits, 2)[:1])
    expect(verdict(page)).to_contain_text("image-0.png")
    page.get_by_label("False alarms").fill("8")
    page.get_by_role("row", name=re.compile("^mse ")).get_by_role("button").click()
    expect(verdict(page)).to_contain_text("by mse")
    expect(page.locator(".marked canvas")).to_be_visible()
    assert sum("/preprocess" in url for url in sent) == 1


def test_where_the_page_may_not_copy_it_selects(open_page: Callable[..., Page]) -> None:
    """Over plain http, browsers give pages of other machines no clipboard."""
    page = open_page()
    expect_verdict(page, "anomaly", "scratch")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.locator(".commands summary").first.click()
    page.get_by_role("button", name="Copy the curl line").click()
    expect(page.get_by_text("Selected: copy it")).to_be_visible()
    assert page.evaluate("getSelection().toString()").startswith("curl ")


def test_a_calibration_that_is_too_small_for_alpha_says_so(page: Page) -> None:
    expect_verdict(page, "anomaly", "scratch")
    scores = {"score": [0.5], "p_value": [0.125], "is_anomaly": [False], "mse": [0], "kl": [0]}
    model = {"model": "mnist", "score_type": "fused", "alpha": 0.01, "threshold": None}

    def answer(route: Route) -> None:
        if "map=true" in route.request.url:
            route.continue_()
        else:
            route.fulfill(json=model | scores)

    page.route("**/anomaly-score?*", answer)
    page.get_by_role("button", name="noise").click()
    expect(verdict(page)).to_contain_text("too few clean images to find anomalies at alpha = 0.01")
    expect(page.locator("line.threshold")).to_have_count(0)
    expect(page.locator(".histogram figcaption")).not_to_contain_text("dashed")
